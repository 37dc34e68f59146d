//go:build ignore

// A merchant's app in Go, standard library only. It knows nothing of SNAP.
//
//	go run app.go create http://127.0.0.1:9180 INV-1 1001   # create a VA
//	go run app.go serve 3000                                # answer DOKU's calls
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

const prefix = "    8808"

type amount struct {
	Value    string `json:"value"`
	Currency string `json:"currency"`
}

type info struct {
	Channel string `json:"channel"`
	URL     string `json:"url,omitempty"`
	TrxID   string `json:"trxId,omitempty"`
}

// account has the fields of a bill and of the answer to an inquiry.
type account struct {
	PartnerServiceID string `json:"partnerServiceId"`
	CustomerNo       string `json:"customerNo"`
	VirtualAccountNo string `json:"virtualAccountNo"`
	Name             string `json:"virtualAccountName"`
	TrxID            string `json:"trxId,omitempty"`
	TotalAmount      amount `json:"totalAmount"`
	TrxType          string `json:"virtualAccountTrxType"`
	Info             info   `json:"additionalInfo"`
	InquiryRequestID string `json:"inquiryRequestId,omitempty"`
}

type answer struct {
	ResponseCode    string   `json:"responseCode"`
	ResponseMessage string   `json:"responseMessage"`
	Data            *account `json:"virtualAccountData,omitempty"`
}

func create(base, trxID, customerNo string) {
	// with & < > as \u escapes, as Go does
	bill, err := json.Marshal(account{
		PartnerServiceID: prefix, CustomerNo: customerNo, VirtualAccountNo: prefix + customerNo, Name: "José & Putri <VIP>",
		TrxID: trxID, TotalAmount: amount{"10000.00", "IDR"}, TrxType: "C",
		Info: info{Channel: "VIRTUAL_ACCOUNT_BANK_PERMATA", URL: "https://toko.example/bayar?x=1&y='2'"},
	})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Post(base+"/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va", "application/json", bytes.NewReader(bill))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		log.Fatalf("HTTP %d: %s %v", resp.StatusCode, body, err)
	}
	fmt.Println(string(body))
}

func answerCall(w http.ResponseWriter, r *http.Request) {
	var asked account
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	told := answer{ResponseCode: "2002500", ResponseMessage: "Successful"}
	if strings.HasSuffix(r.URL.Path, "/inquiry") {
		asked.Name, asked.TotalAmount, asked.TrxType = "José & Putri <VIP>", amount{"11500.00", "IDR"}, "C"
		asked.Info = info{Channel: "VIRTUAL_ACCOUNT_BANK_PERMATA", TrxID: "INV-DIPC"}
		told = answer{"2002400", "Successful", &asked}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(told)
}

func main() {
	if os.Args[1] == "create" {
		create(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[2], http.HandlerFunc(answerCall)))
}
