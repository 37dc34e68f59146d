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
	"sync"
	"sync/atomic"
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
	gates         map[string]*doktest.Gate // in front of each DOKU
	byPlaceholder string
	byArgument    string // fixed to "kopi"
}

const (
	kopi = "BRN-0001-1111111111111"
	susu = "BRN-0002-2222222222222"
)

func startBrands(t *testing.T) *brands {
	t.Helper()
	b := &brands{testEnv: newEnv(t), doku: make(map[string]*simulator.Simulator), gates: make(map[string]*doktest.Gate)}
	accounts := ""
	for name, id := range map[string]string{"kopi": kopi, "susu": susu} {
		b.doku[name] = newDOKU(t, id, secretKey+name, new(atomic.Int64))
		b.doku[name].SetMerchantURLs(b.inward+tokenPath, b.inward+inquiryPath, b.inward+paymentPath)
		b.gates[name] = doktest.NewGate(b.doku[name])
		server := httptest.NewServer(b.gates[name])
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
	doku_sign {
		timeout 2m
		token_timeout 1m
	}
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
			answered, err := doku.Call(
				t.Context(), simulator.Outgoing{URL: b.inward + paymentPath, Body: payment("P-1"), ExternalID: "E-1"},
			)
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
		issued, err := b.doku["susu"].RequestToken(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		token := accessToken.FindSubmatch(issued.Body)
		if token == nil {
			t.Fatalf("no token in %s", issued.Body)
		}
		answered, err := b.doku["kopi"].Call(
			t.Context(), simulator.Outgoing{URL: b.inward + paymentPath, Body: payment("P-2"), Bearer: string(token[1])},
		)
		if err != nil {
			t.Fatal(err)
		}
		answer{answered.Status, answered.Header, string(answered.Body)}.expect(t, http.StatusUnauthorized, "4012501")
	})
	t.Run("a stranger gets no token", func(t *testing.T) {
		for _, id := range [][]string{{"BRN-9"}, nil} {
			answered, err := b.doku["susu"].RequestToken(t.Context(), func(r *http.Request) { r.Header["X-Client-Key"] = id })
			if err != nil {
				t.Fatal(err)
			}
			code := "4017300"
			if id == nil {
				code = "4007302"
			}
			answer{answered.Status, answered.Header, string(answered.Body)}.expect(t, answered.Status, code)
		}
	})
}

// createAll makes 20 calls at once for one account. The function that it returns waits for
// them and returns their answers.
func (b *brands) createAll(t *testing.T, id string) (wait func() []answer) {
	t.Helper()
	answers := make([]answer, 20)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = b.create(t, b.outward, fmt.Sprint(100+i), "X-PARTNER-ID", id) })
	}
	return func() []answer {
		wg.Wait()
		return answers
	}
}

func TestOneAccountsTroubleIsNotTheOthers(t *testing.T) {
	t.Parallel()
	t.Run("calls that hang", func(t *testing.T) {
		t.Parallel()
		b := startBrands(t)
		open := b.gates["kopi"].Shut(createPath)
		defer open()
		wait := b.createAll(t, kopi)
		b.gates["kopi"].AwaitHeld(t, createPath, 20)
		for i := range 20 {
			b.create(t, b.outward, fmt.Sprint(10+i), "X-PARTNER-ID", susu).expect(t, http.StatusOK, "2002700")
		}
		if n := b.gates["kopi"].Held(createPath); n != 20 {
			t.Errorf("%d calls still hang, expected all 20", n)
		}
		open()
		for _, got := range wait() {
			got.expect(t, http.StatusOK, "2002700")
		}
	})
	// A token request ends by its own timeout, which does not wait for a slow machine. So
	// one answer while the same request hangs is enough.
	t.Run("token requests that hang", func(t *testing.T) {
		t.Parallel()
		b := startBrands(t)
		b.create(t, b.outward, "1", "X-PARTNER-ID", susu).expect(t, http.StatusOK, "2002700")
		gate := b.gates["kopi"]
		defer gate.Shut(tokenPath)()
		answers := make(chan []answer)
		go func() { answers <- b.createAll(t, kopi)() }()
		number := 1
		doktest.Eventually(t, "a call of one account to be answered while a token request of the other hangs", func() bool {
			before := gate.Arrived(tokenPath)
			number++
			b.create(t, b.outward, fmt.Sprint(number), "X-PARTNER-ID", susu).expect(t, http.StatusOK, "2002700")
			return before > 0 && before == gate.Arrived(tokenPath) && gate.Held(tokenPath) > 0
		})
		for _, got := range <-answers {
			got.expect(t, http.StatusServiceUnavailable, "5032700")
		}
	})
}

// credentialFile is a file with a key or a secret.
type credentialFile struct{ path string }

// set replaces the file, as Kubernetes and careful scripts do it: another file takes its
// place.
func (c credentialFile) set(t *testing.T, content []byte) {
	t.Helper()
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

func TestChangedKeysAndSecretsAreTakenUpWithoutAReload(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	dir := t.TempDir()
	file := func(name string) credentialFile { return credentialFile{filepath.Join(dir, name)} }
	secret, private, public := file("secret"), file("private.pem"), file("public.pem")
	secret.set(t, []byte("SK-the-old-one\n"))
	merchant, doku := newKey(t), newKey(t)
	dokuDER, err := x509.MarshalPKIXPublicKey(doku.Public())
	if err != nil {
		t.Fatal(err)
	}
	private.set(t, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(merchant)}))
	public.set(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: dokuDER}))
	config := env.caddyfile(options{})
	for old, replacement := range map[string]string{
		"{env.DOKU_SECRET_KEY}": "{file." + secret.path + "}", "{env.DOKU_PRIVATE_KEY}": private.path, "{env.DOKU_PUBLIC_KEY}": public.path,
	} {
		config = strings.Replace(config, old, replacement, 1)
	}
	env.run(t, config)

	// With the old key, DOKU gives no token.
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusServiceUnavailable, "5032700")
	const loads = `credential_loads_total{account="default",result="`
	private.set(t, doktest.Data(t, doktest.MerchantKey))
	env.awaitMetrics(t, loads+`loaded"} 1`)
	// With the old secret, DOKU refuses the signature.
	eventually(t, func() answer { return env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")) }, "4012700")
	secret.set(t, []byte(secretKey+"\n"))
	env.awaitMetrics(t, loads+`loaded"} 2`)
	// A file that is away for a moment leaves no fault behind.
	away := public.path + ".away"
	if err := os.Rename(public.path, away); err != nil {
		t.Fatal(err)
	}
	env.awaitLine(t, "a changed file of the account is of no use", "no such file")
	if err := os.Rename(away, public.path); err != nil {
		t.Fatal(err)
	}
	env.awaitLine(t, "the files of keys and secrets are again as they were")
	if status, err := env.runCommand(t, "doku", "status"); err != nil || strings.Contains(status, "KEYS") {
		t.Errorf("%v\n%s", err, status)
	}
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	// With another DOKU key, DOKU gets no token here.
	refused, err := env.doku.RequestToken(t.Context(), nil)
	if err != nil || refused.Status != http.StatusUnauthorized {
		t.Fatalf("HTTP %d, %v", refused.Status, err)
	}
	public.set(t, doktest.Data(t, dokuPublicKey))
	env.awaitMetrics(t, loads+`loaded"} 3`)
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")

	// A file that is no key changes nothing.
	private.set(t, []byte("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"))
	env.awaitMetrics(t, loads+`failed"} 1`, loads+`loaded"} 3`)
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
}

// eventually repeats a call until its answer contains a text, such as a response code.
func eventually(t *testing.T, call func() answer, text string) {
	t.Helper()
	var last answer
	defer func() {
		if t.Failed() {
			t.Logf("the last answer: HTTP %d %s", last.status, last.body)
		}
	}()
	doktest.Eventually(t, "an answer with "+text, func() bool {
		last = call()
		return strings.Contains(last.body, text)
	})
}

// checkCorrection sets DOKU's clock ahead, makes enough calls for the sidecar to know that,
// and checks whether the X-TIMESTAMP of the next one is corrected.
func (env *testEnv) checkCorrection(t *testing.T, corrected bool, number string) {
	t.Helper()
	const skew = 90 * time.Second
	env.dokuAhead.Store(int64(skew))
	env.doku.SetFault(statusPath, &simulator.Fault{Status: 404, Body: `{"responseCode":"4042612"}`})
	for range 9 {
		env.call(t, http.MethodPost, statusPath, "{}").expect(t, http.StatusNotFound, "4042612")
	}
	earliest := time.Now().Truncate(time.Second)
	env.call(t, http.MethodPost, createPath, bill(number, "CLOCK-"+number, "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	latest := time.Now()
	if corrected { // the sidecar measures to the half of a round trip of 10 s at most
		earliest, latest = earliest.Add(skew-10*time.Second), latest.Add(skew+10*time.Second)
	}
	sent, err := time.Parse(time.RFC3339, env.received(t).Header.Get("X-Timestamp"))
	if err != nil || sent.Before(earliest) || sent.After(latest) {
		t.Errorf("X-TIMESTAMP %s, %v, expected %s to %s", sent, err, earliest, latest)
	}
}

func TestTheClockIsComparedWithDOKUs(t *testing.T) {
	t.Parallel()
	for _, correction := range []string{"on", "off"} {
		t.Run(correction, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{global: "clock_correction " + correction})
			env.checkCorrection(t, correction == "on", "1")
			env.log.Await(t, `"direction":"behind`, 1)
			env.awaitMetrics(t, `clock_offset_seconds{account="default"} `)
			// DOKU's calls are judged by this machine's clock.
			env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
		})
	}
}
