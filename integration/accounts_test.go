package integration

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// brands is a sidecar with two accounts, each with a DOKU of its own, that can be
// chosen in three ways.
type brands struct {
	*testEnv
	doku          map[string]*simulator.Simulator
	byPlaceholder string
	byArgument    string // fixed to "kopi"
}

const (
	kopi = "BRN-0001-1111111111111"
	susu = "BRN-0002-2222222222222"
)

func startBrands(t *testing.T) *brands {
	t.Helper()
	b := &brands{testEnv: newEnv(t), doku: make(map[string]*simulator.Simulator)}
	accounts := ""
	for name, id := range map[string]string{"kopi": kopi, "susu": susu} {
		b.doku[name] = newDOKU(t, id, secretKey+name)
		b.doku[name].SetMerchantURLs(b.inward+tokenPath, b.inward+inquiryPath, b.inward+paymentPath)
		server := httptest.NewServer(b.doku[name])
		t.Cleanup(server.Close)
		accounts += fmt.Sprintf(`
		account %s {
			environment %s
			client_id %s
			secret_key {env.DOKU_SECRET_KEY}%s
			private_key {env.DOKU_PRIVATE_KEY}
			doku_public_key {env.DOKU_PUBLIC_KEY}
		}`, name, server.URL, id, name)
	}
	b.byPlaceholder, b.byArgument = "http://"+doktest.FreeAddress(t), "http://"+doktest.FreeAddress(t)
	b.run(t, fmt.Sprintf(`{
	admin %s
	persist_config off
	doku {%s
	}
}
%s {
	doku_sign
}
%s {
	doku_sign {http.request.header.X-Brand}
}
%s {
	doku_sign kopi
}
%s {
	doku_token %s
	doku_verify /v1.1/transfer-va/*
	reverse_proxy /v1.1/transfer-va/* %s
}
`, strings.TrimPrefix(b.admin, "http://"), accounts, b.outward, b.byPlaceholder, b.byArgument, b.inward, tokenPath, b.appAddress))
	return b
}

// create posts a bill to one of the sites and returns the answer.
func (b *brands) create(t *testing.T, site, number string, header ...string) answer {
	t.Helper()
	at := *b.testEnv
	at.outward = site
	return at.call(t, http.MethodPost, createPath, bill(number, "T"+number, "1000.00", "C", ""), header...)
}

// received returns how many calls each DOKU has received, tokens aside.
func (b *brands) received(name string) (n int) {
	for _, e := range b.doku[name].Exchanges() {
		if e.Inbound && e.Target == createPath {
			n++
		}
	}
	return n
}

func TestAccountsAreChosenAndKeptApart(t *testing.T) {
	t.Parallel()
	b := startBrands(t)
	tests := []struct {
		name, site, number string
		header             []string
		goes               string // the account's name; "" if nothing may be sent
	}{
		{"by X-PARTNER-ID", b.outward, "1", []string{"X-PARTNER-ID", kopi}, "kopi"},
		{"by another X-PARTNER-ID", b.outward, "2", []string{"X-PARTNER-ID", susu}, "susu"},
		{"an unknown X-PARTNER-ID", b.outward, "3", []string{"X-PARTNER-ID", "BRN-9"}, ""},
		{"no X-PARTNER-ID", b.outward, "4", nil, ""},
		{"two of them", b.outward, "5", []string{"X-PARTNER-ID", kopi, "X-PARTNER-ID", susu}, ""},
		{"by placeholder", b.byPlaceholder, "6", []string{"X-Brand", "susu"}, "susu"},
		{"by placeholder, with its X-PARTNER-ID", b.byPlaceholder, "7", []string{"X-Brand", "kopi", "X-PARTNER-ID", kopi}, "kopi"},
		{"by placeholder, with another X-PARTNER-ID", b.byPlaceholder, "11", []string{"X-Brand", "kopi", "X-PARTNER-ID", susu}, ""},
		{"a placeholder that is empty", b.byPlaceholder, "8", []string{"X-PARTNER-ID", kopi}, ""},
		{"an unknown name", b.byPlaceholder, "9", []string{"X-Brand", "jus"}, ""},
		{"by argument", b.byArgument, "10", []string{"X-PARTNER-ID", kopi, "X-Brand", "susu"}, "kopi"},
		{"by argument, with another X-PARTNER-ID", b.byArgument, "12", []string{"X-PARTNER-ID", susu}, ""},
		{"by argument, with two of them", b.byArgument, "13", []string{"X-PARTNER-ID", kopi, "X-PARTNER-ID", kopi}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := map[string]int{"kopi": b.received("kopi"), "susu": b.received("susu")}
			got := b.create(t, test.site, test.number, test.header...)
			if test.goes == "" {
				got.expect(t, http.StatusBadRequest, "4002701")
				if reason := got.header.Get("X-Doku-Error"); reason != "account" {
					t.Errorf("X-Doku-Error %q", reason)
				}
			} else {
				got.expect(t, http.StatusOK, "2002700")
				before[test.goes]++
			}
			for name, want := range before {
				if n := b.received(name); n != want {
					t.Errorf("%s received %d calls, expected %d", name, n, want)
				}
			}
		})
	}
	t.Run("each has a token of its own", func(t *testing.T) {
		for name, doku := range b.doku {
			if n := doku.Tokens(); n != 1 {
				t.Errorf("%s issued %d tokens", name, n)
			}
		}
	})
	t.Run("an idempotency key is the account's", func(t *testing.T) {
		for i, id := range []string{kopi, susu} {
			b.create(t, b.outward, fmt.Sprint(50+i), "X-PARTNER-ID", id, "Idempotency-Key", "same").expect(t, http.StatusOK, "2002700")
		}
	})
	t.Run("DOKU's calls find their account", func(t *testing.T) {
		for name, doku := range b.doku {
			answered, err := doku.Call(t.Context(), simulator.Outgoing{URL: b.inward + paymentPath, Body: payment("P-1"), ExternalID: "E-1"})
			if err != nil || answered.Status != http.StatusOK {
				t.Fatalf("%s: HTTP %d %s, %v", name, answered.Status, answered.Body, err)
			}
		}
		calls := b.app.seen()
		if len(calls) != 2 || calls[0].header.Get("X-Doku-Account") == calls[1].header.Get("X-Doku-Account") ||
			calls[0].header.Get("Idempotency-Key") == calls[1].header.Get("Idempotency-Key") {
			t.Errorf("the app saw %d calls, expected one of each account: %v", len(calls), calls)
		}
	})
	t.Run("the token of one account is no good for the other", func(t *testing.T) {
		told, err := b.doku["susu"].RequestToken(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		token := accessToken.FindSubmatch(told.Body)
		if token == nil {
			t.Fatalf("no token in %s", told.Body)
		}
		answered, err := b.doku["kopi"].Call(t.Context(), simulator.Outgoing{URL: b.inward + paymentPath, Body: payment("P-2"), Bearer: string(token[1])})
		if err != nil {
			t.Fatal(err)
		}
		answer{answered.Status, answered.Header, string(answered.Body)}.expect(t, http.StatusUnauthorized, "4012501")
	})
	t.Run("a stranger gets no token", func(t *testing.T) {
		for _, id := range [][]string{{"BRN-9"}, nil} {
			told, err := b.doku["susu"].RequestToken(t.Context(), func(r *http.Request) { r.Header["X-Client-Key"] = id })
			if err != nil {
				t.Fatal(err)
			}
			code := "4017300"
			if id == nil {
				code = "4007302"
			}
			answer{told.Status, told.Header, string(told.Body)}.expect(t, told.Status, code)
		}
	})
}

func TestOneAccountsTroubleIsNotTheOthers(t *testing.T) {
	t.Parallel()
	b := startBrands(t)
	b.create(t, b.outward, "1", "X-PARTNER-ID", susu).expect(t, http.StatusOK, "2002700")
	b.doku["kopi"].SetFault(tokenPath, &simulator.Fault{Delay: time.Minute})
	done := make(chan struct{})
	for i := range 20 {
		go func() {
			b.create(t, b.outward, fmt.Sprint(100+i), "X-PARTNER-ID", kopi)
			done <- struct{}{}
		}()
	}
	for i := range 20 {
		start := time.Now()
		b.create(t, b.outward, fmt.Sprint(10+i), "X-PARTNER-ID", susu).expect(t, http.StatusOK, "2002700")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("a call took %s", took)
		}
	}
	for range 20 {
		<-done
	}
}

// changing is a file of credentials that a test changes.
type changing struct{ path string }

func (c changing) set(t *testing.T, content []byte) {
	t.Helper()
	// As Kubernetes and careful scripts do it: another file takes its place.
	if err := os.WriteFile(c.path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.path+".new", c.path); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(testdata(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestChangedKeysAndSecretsAreTakenUpWithoutAReload(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	dir := t.TempDir()
	secret, private, public := changing{filepath.Join(dir, "secret")}, changing{filepath.Join(dir, "private.pem")}, changing{filepath.Join(dir, "public.pem")}
	secret.set(t, []byte("SK-the-old-one\n"))
	mine, theirs := newKey(t), newKey(t)
	their, err := x509.MarshalPKIXPublicKey(theirs.Public())
	if err != nil {
		t.Fatal(err)
	}
	private.set(t, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(mine)}))
	public.set(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: their}))
	config := env.caddyfile(options{})
	for old, replacement := range map[string]string{
		"{env.DOKU_SECRET_KEY}": "{file." + secret.path + "}", "{env.DOKU_PRIVATE_KEY}": private.path, "{env.DOKU_PUBLIC_KEY}": public.path,
	} {
		config = strings.Replace(config, old, replacement, 1)
	}
	env.run(t, config)

	// With the old key, DOKU gives no token.
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusServiceUnavailable, "5032700")
	private.set(t, read(t, "test-merchant-private.pem"))
	env.awaitLog(t, "took up changed keys or secrets", 1)
	// With the old secret, DOKU takes no signature.
	env.eventually(t, func() answer { return env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")) }, "4012700")
	secret.set(t, []byte(secretKey+"\n"))
	env.awaitLog(t, "took up changed keys or secrets", 2)
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	// With another key of DOKU's, it gets no token here.
	refused, err := env.doku.RequestToken(t.Context(), nil)
	if err != nil || refused.Status != http.StatusUnauthorized {
		t.Fatalf("HTTP %d, %v", refused.Status, err)
	}
	public.set(t, read(t, "test-doku-public.pem"))
	env.awaitLog(t, "took up changed keys or secrets", 3)
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")

	// What is of no use changes nothing.
	private.set(t, []byte("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"))
	env.awaitLog(t, "the keys and secrets in use stay", 1)
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	if metrics := env.ask("/metrics"); !strings.Contains(metrics, `caddy_doku_credential_loads_total{account="default",result="failed"} 1`) ||
		!strings.Contains(metrics, `caddy_doku_credential_loads_total{account="default",result="loaded"} 3`) {
		t.Error("the counters do not tell")
	}
}

// awaitLog waits until the log has a text n times.
func (env *testEnv) awaitLog(t *testing.T, text string, n int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for strings.Count(env.log.String(), text) < n {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %q %d times", text, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// eventually repeats a call until its answer has a response code.
func (env *testEnv) eventually(t *testing.T, call func() answer, code string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := call()
		if strings.Contains(got.body, code) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("found HTTP %d %s, expected response code %s", got.status, got.body, code)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestTheClockIsComparedWithDOKUs(t *testing.T) {
	t.Parallel()
	for _, correction := range []string{"on", "off"} {
		t.Run(correction, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{global: "clock_correction " + correction})
			ahead := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
			env.doku.SetFault(statusPath, &simulator.Fault{Status: 404, Body: `{"responseCode":"4042612"}`, Header: http.Header{"Date": {ahead}}})
			for range 9 {
				env.call(t, http.MethodPost, statusPath, "{}").expect(t, http.StatusNotFound, "4042612")
			}
			env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
			told, err := time.Parse(time.RFC3339, env.received(t).Header.Get("X-Timestamp"))
			if err != nil {
				t.Fatal(err)
			}
			if by := time.Until(told); (by > 45*time.Second) != (correction == "on") || by > 2*time.Minute {
				t.Errorf("X-TIMESTAMP is %s ahead", by)
			}
			env.awaitLog(t, "behind DOKU's", 1)
			if !strings.Contains(env.ask("/metrics"), `caddy_doku_clock_offset_seconds{account="default"} `) {
				t.Error("no gauge of the offset")
			}
			// DOKU's calls are judged by this machine's clock.
			env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
		})
	}
}
