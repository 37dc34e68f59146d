package main

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

const (
	createPath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	paymentPath = "/v1.1/transfer-va/payment"
)

// batch is the calls of a round. They have the largest part of the body in
// common, so that a round's worth of large calls fits in memory and is soon signed.
type batch struct {
	body  string
	calls []edges
}

// edges are the parts that differ from call to call: the header, and the end of the body.
type edges struct{ head, tail string }

// appendCall appends call i as it goes on the wire.
func (b batch) appendCall(dst []byte, i int) []byte {
	call := b.calls[i]
	dst = append(dst, call.head...)
	dst = append(dst, b.body...)
	return append(dst, call.tail...)
}

// filling is the content that gives a body its size.
type filling string

const (
	fillItems filling = "items" // a list of small objects: much JSON in little text
	fillText  filling = "text"  // one long string
)

// appCalls returns n equal calls of the app, with a body of size bytes: doku_sign has to
// make it canonical, add an external id, and sign.
func appCalls(size, n int, with filling) (batch, error) {
	body, err := createBody(size, with)
	if err != nil {
		return batch{}, err
	}
	head := fmt.Sprintf(
		"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", createPath, size,
	)
	b := batch{body: body, calls: make([]edges, n)}
	for i := range b.calls {
		b.calls[i].head = head
	}
	return b, nil
}

// dokuCalls makes DOKU calls: notifications of payments, each of them different, because the
// ledger would answer a repeat.
type dokuCalls struct {
	clientID string
	secret   *snap.Secret
	token    string // from doku_token
	size     int
	with     filling
	next     int64 // the next external and payment id
}

// paymentIDSize is the number of digits of a payment id.
const paymentIDSize = 20

// sign returns the next n calls, signed at the instant now.
func (d *dokuCalls) sign(n int, now time.Time) (batch, error) {
	body, err := paymentBody(d.size, d.with)
	if err != nil {
		return batch{}, err
	}
	begun := sha256.New()
	begun.Write([]byte(body))
	timestamp := snap.Timestamp(now)
	b := batch{body: body, calls: make([]edges, n)}
	var text []byte
	for i := range b.calls {
		id := fmt.Sprintf("%0*d", paymentIDSize, d.next)
		d.next++
		tail := paymentTail(id)
		ended, err := begun.(hash.Cloner).Clone()
		if err != nil {
			return batch{}, fmt.Errorf("copying a SHA-256 state: %w", err)
		}
		_, _ = ended.Write([]byte(tail)) // a hash never fails
		text = snap.AppendStringToSign(text[:0], http.MethodPost, paymentPath, d.token, [sha256.Size]byte(ended.Sum(nil)), timestamp)
		b.calls[i] = edges{
			head: fmt.Sprintf("POST %s HTTP/1.1\r\nHost: merchant.example\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
				"%s: %s\r\n%s: %s\r\n%s: %s\r\n%s: %s\r\n%s: VA004\r\n%s: Bearer %s\r\n\r\n",
				paymentPath, d.size,
				snap.HeaderTimestamp, timestamp,
				snap.HeaderSignature, d.secret.Signature(text),
				snap.HeaderPartnerID, d.clientID,
				snap.HeaderExternalID, id,
				snap.HeaderChannelID,
				snap.HeaderAuthorization, d.token),
			tail: tail,
		}
	}
	return b, nil
}

// createBody returns a body of size bytes that creates a virtual account,
// written as Python's json.dumps does: with spaces, and \u escapes.
func createBody(size int, with filling) (string, error) {
	return fill(size, with,
		`{"partnerServiceId": "  088899", "customerNo": "00000000000000000001", "virtualAccountNo": "  08889900000000000000000001", `+
			`"virtualAccountName": "Toru Yamashita", "virtualAccountEmail": "toru@example.com", "virtualAccountPhone": "6281828384858", `+
			`"trxId": "INV-0001", "totalAmount": {"value": "12500.00", "currency": "IDR"}, "virtualAccountTrxType": "C", `+
			`"expiredDate": "2030-12-31T23:55:00+07:00", "freeTexts": [{"english": "Jos\u00e9 & Putri", "indonesia": "Jos\u00e9 & Putri"}], `+
			`"additionalInfo": {"channel": "VIRTUAL_ACCOUNT_BANK_PERMATA", "virtualAccountConfig": {"reusableStatus": false}, "lineItems": [`,
		`{"name": "Kopi susu gula aren %d", "sku": "KSG-%d", "price": "18500.00", "quantity": 2, "taxed": true}`, ", ",
		`], "note": "`, `"}}`)
}

// paymentTail returns the end of a payment's body: its id, and a virtual account of
// its own, since payments to the same one are handed over one after the other.
func paymentTail(id string) string {
	return `"` + id + `","virtualAccountNo":"   77777` + id + `"}`
}

// paymentBody returns the body of a notification, of size bytes, up to [paymentTail].
func paymentBody(size int, with filling) (string, error) {
	return fill(size-len(paymentTail(strings.Repeat("0", paymentIDSize))), with,
		`{"partnerServiceId":"   77777","customerNo":"0000000000001",`+
			`"virtualAccountName":"Toru Yamashita","trxId":"23219829713","paidAmount":{"value":"11500.00","currency":"IDR"},`+
			`"virtualAccountEmail":"toru@example.com","virtualAccountPhone":"081293912081","virtualAccountTrxType":"C",`+
			`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA","senderName":"Putri","lineItems":[`,
		`{"name":"Kopi susu gula aren %d","sku":"KSG-%d","price":"18500.00","quantity":2,"taxed":true}`, ",",
		`],"note":"`, `"},"paymentRequestId":`)
}

// fill returns size bytes: open, as many items as fit unless the filling is text, before, a
// text that fills the rest, and after. item is a format that gets the item's number twice.
func fill(size int, with filling, open, item, separator, before, after string) (string, error) {
	room := size - len(open) - len(before) - len(after)
	if room < 0 {
		return "", fmt.Errorf("a body of this kind has at least %d bytes, found %d", size-room, size)
	}
	var items strings.Builder
	for i := 1; with == fillItems; i++ {
		next := fmt.Sprintf(item, i, i)
		if i > 1 {
			next = separator + next
		}
		if items.Len()+len(next) > room {
			break
		}
		items.WriteString(next)
	}
	const phrase = "Kopi susu gula aren, tanpa es. "
	text := strings.Repeat(phrase, room/len(phrase)+1)[:room-items.Len()]
	return open + items.String() + before + text + after, nil
}
