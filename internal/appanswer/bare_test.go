package appanswer

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestABareAnswerIsAYesOnlyIfTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", " \n", "OK", "ok\r\n", "\ufeffOK", "CONTINUE", "SUCCESS", "Success!", "RECEIVED, thanks", "received", "accepted", "processed", "Done.",
		"true", "1", "200", "200 OK", "Berhasil", "Diterima dengan baik", "Sukses", "Terima kasih – pembayaran diterima", "pembayaran masuk",
		"Notification received successfully", "Payment P-1 of 25000 saved", "déjà vu", "saved 2024-03-26 16:00:05 +07:00", "acknowledged", "ACK",
		"created", "Thank you for your notification",
	} {
		for _, contentType := range []string{"", "text/plain", "text/plain; charset=utf-8", "TEXT/PLAIN; charset=US-ASCII"} {
			got := answer(200, contentType, body)
			if contentType == "" {
				delete(got.Header, "Content-Type")
			}
			if strict := Judge(snap.ServiceVAPayment, got, false); strict.Decision != Undecided || !strict.MaybeTaken() {
				t.Errorf("%q without the option: %+v", body, strict)
			}
			if loose := Judge(snap.ServiceVAPayment, got, true); loose.Decision != Yes || loose.Status != 200 {
				t.Errorf("%s %q: %s", contentType, body, loose)
			}
			if inquiry := Judge(snap.ServiceVAInquiry, got, true); inquiry.Decision != Undecided {
				t.Errorf("a bare answer to an inquiry is no bill: %q", body)
			}
		}
	}
	for _, contentType := range []string{"text/html; charset=UTF-8", "application/json"} {
		if got := Judge(snap.ServiceVAPayment, answer(200, contentType, "\n"), true); got.Decision != Yes {
			t.Errorf("the type of an empty answer is only what frameworks write: %s", got)
		}
	}
}

// code and name in forms that a reader could see.
func disguised(text string) []string {
	full := strings.Map(func(r rune) rune { return r + 0xFEE0 }, text)
	entities, escapes, percent := "", "", ""
	for _, r := range text {
		entities += fmt.Sprintf("&#%d;", r)
		escapes += fmt.Sprintf(`\u%04x`, r)
		percent += fmt.Sprintf("%%%02X", r)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(text))
	return []string{
		text, "code " + text, "OK " + text, "ok\n" + text, text + ".", "x" + text + "y", full, entities, escapes, percent,
		url.QueryEscape(text + "="),
		encoded, strings.TrimRight(encoded, "="), base64.URLEncoding.EncodeToString([]byte("xx" + text)),
		base64.StdEncoding.EncodeToString([]byte(encoded)), hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))),
		strings.Join(strings.Split(text, ""), "\u200b"), "\u00ad" + text, strings.Join(strings.Split(text, ""), "\x00"),
	}
}

func TestALooseAppIsNotTakenToSayYesWhenItMaySayNo(t *testing.T) {
	t.Parallel()
	bodies := []string{
		`responseCode=4042512&responseMessage=x`, `responseCode: 5002500`, `responseCode":"4042512"}`, `responseCode 2002500`, "response_code: 1",
		"Response-Code", "RESPONSE CODE", "reſponseCode", "４０４２５１２", "4.042.512", "4,042,512", "404 25 12", "4 0 4 2 5 1 2",
		"false", "null", "0", "-1", "00", "0.0", "1e3", "NaN", `""`, `"OK"`, "[]", "{}", "0 rows", "2002500",
		"ERROR 17", "error", "FAILED", "Failed to save", "PAYMENT_ERROR", "NullPointerException", "Exception in thread main", "Gagal", "pembayaran gagal",
		"tidak ditemukan", "Terjadi kesalahan", "belum", "ditolak", "maaf", "not ok", "NOK", "no", "NOT_FOUND", "order not found", "404 page not found",
		"500", "Unauthorized", "access denied", "please log in", "Please login", "Service unavailable", "timeout", "try again later", "under maintenance",
		"Warning: Undefined variable $x in y.php on line 3", "cannot save", "could not connect", "It doesn't exist", "invalid signature", "500 Internal",
		"<html>", "&lt;ok&gt;", "ok\x00", "ok\x1b[31m", "ok\x07", "\x1f\x8b\x08", "GIF89a\x01\x00", "\xff\xfeO\x00K\x00", "ok \u202e", "ok\u2028ok", "оk", "✓",
		"status=ok", strings.Repeat("ok ", 300), "OK {", "ok\x7f", "ok\x85",
	}
	bodies = append(append(bodies, disguised("4042512")...), append(disguised("5002500"), disguised("responseCode")...)...)
	for _, body := range bodies {
		for _, contentType := range []string{"", "text/plain"} {
			got := answer(200, contentType, body)
			if contentType == "" {
				delete(got.Header, "Content-Type")
			}
			if loose := Judge(snap.ServiceVAPayment, got, true); loose.Decision != Undecided || !loose.MaybeTaken() {
				t.Errorf("%q is taken for a yes", body)
			}
		}
	}
	with := func(status int, body string, header ...string) store.Answer {
		h := make(http.Header)
		for n := 0; n < len(header); n += 2 {
			h.Add(header[n], header[n+1])
		}
		return store.Answer{Status: status, Header: h, Body: []byte(body)}
	}
	for _, x := range []store.Answer{
		with(200, "", "Content-Type", "image/gif"), with(200, "OK", "Content-Type", "image/gif"),
		with(200, "OK", "Content-Type", "application/octet-stream"), with(200, "", "Content-Type", "application/octet-stream"),
		with(200, "OK", "Content-Type", "text/html"), with(200, "OK", "Content-Type", "application/json"), with(200, "OK", "Content-Type", ";"),
		with(200, "OK", "Content-Type", "text/plain; charset=utf-16"), with(200, "+AG8-k", "Content-Type", "text/plain; charset=utf-7"),
		with(200, "OK", "Content-Type", "text/plain", "Content-Type", "text/html"),
		with(200, "OK", "Content-Type", "multipart/mixed"),
		with(200, "", "Location", "/login"), with(201, "OK", "Location", "/login"), with(200, "OK", "Refresh", "0; url=/login"),
		with(200, "", "X-Inertia-Location", "/login"), with(200, "", "HX-Redirect", "/login"), with(200, "", "Www-Authenticate", "Basic"),
		with(206, "O"), with(207, ""),
	} {
		if got := Judge(snap.ServiceVAPayment, x, true); got.Decision != Undecided || !got.MaybeTaken() {
			t.Errorf("HTTP %d %v %q is taken for a yes", x.Status, x.Header, x.Body)
		} else if !strings.Contains(got.Error(), "no bare yes, since ") {
			t.Errorf("HTTP %d %v %q: the error does not say why: %s", x.Status, x.Header, x.Body, got)
		}
	}
	for _, x := range []test{
		{"a redirect", 302, "OK", Undecided, 302},
		{"500", 500, "OK", Undecided, 500},
		{"404", 404, "", Undecided, 404},
		{"text with JSON in it", 200, `saved {"responseCode":"5002500"}`, Undecided, 200},
	} {
		x.run(t, true)
	}
}
