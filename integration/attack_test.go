package integration

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// attacks is how many mutated calls the sidecar gets. They are the same in every run, but
// for times, tokens and signatures.
const attacks = 4000

// wireCall is a call as it goes over the wire.
type wireCall struct {
	method, target, version string
	headers                 [][2]string
	body                    []byte
	chunked                 bool
}

// recordCall returns a genuine call, which the sidecar has not seen.
func (env *testEnv) recordCall(t *testing.T, token, id, timestamp string, body []byte) wireCall {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, env.inward+paymentPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-TIMESTAMP", timestamp)
	signedOver(r, paymentPath, body, token)
	return wireCall{
		method: http.MethodPost, target: paymentPath, version: "HTTP/1.1", body: body,
		headers: [][2]string{
			{"Host", strings.TrimPrefix(env.inward, "http://")},
			{"Content-Type", "application/json"},
			{"X-TIMESTAMP", timestamp},
			{"X-PARTNER-ID", clientID},
			{"X-EXTERNAL-ID", "E-" + id},
			{"CHANNEL-ID", "H2H"},
			{"Authorization", "Bearer " + token},
			{"X-SIGNATURE", r.Header.Get("X-SIGNATURE")},
		},
	}
}

// bytes returns the call as bytes.
func (c *wireCall) bytes(random *rand.Rand) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s %s\r\n", c.method, c.target, c.version)
	for _, h := range c.headers {
		fmt.Fprintf(&out, "%s: %s\r\n", h[0], h[1])
	}
	if !c.chunked {
		fmt.Fprintf(&out, "Connection: close\r\nContent-Length: %d\r\n\r\n", len(c.body))
		out.Write(c.body)
		return out.Bytes()
	}
	out.WriteString("Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
	for rest := c.body; len(rest) > 0; {
		n := 1 + random.IntN(len(rest))
		fmt.Fprintf(&out, "%x;a=%d\r\n%s\r\n", n, n, rest[:n])
		rest = rest[n:]
	}
	out.WriteString("0\r\nX-Doku-Verified: true\r\n\r\n")
	return out.Bytes()
}

// mutation changes a call.
type mutation struct {
	name   string
	change func(random *rand.Rand, c *wireCall)
}

// isDOKUs reports whether a call is still the one that DOKU has signed: what is signed is
// there once, as it was, but for white space in the JSON.
func (c *wireCall) isDOKUs(signed *wireCall) bool {
	once := func(of *wireCall, name string) string {
		var values []string
		for _, h := range of.headers {
			if strings.EqualFold(h[0], name) {
				values = append(values, strings.Trim(h[1], " \t"))
			}
		}
		if len(values) != 1 {
			return "?"
		}
		if scheme, token, _ := strings.Cut(values[0], " "); name == "Authorization" && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimLeft(token, " ")
		}
		return values[0]
	}
	for _, name := range signedNames {
		if value := once(c, name); value == "?" || value != once(signed, name) {
			return false
		}
	}
	var found, expected bytes.Buffer
	return once(c, "X-EXTERNAL-ID") != "?" && c.method == signed.method && c.target == signed.target && json.Compact(&found, c.body) == nil &&
		json.Compact(&expected, signed.body) == nil && bytes.Equal(found.Bytes(), expected.Bytes())
}

// set replaces a header.
func (c *wireCall) set(name, value string) {
	for i, h := range c.headers {
		if strings.EqualFold(h[0], name) {
			c.headers[i][1] = value
		}
	}
}

func (c *wireCall) get(name string) string {
	for _, h := range c.headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// flip changes a byte of text to another letter or digit.
func flip(random *rand.Rand, text string) string {
	if text == "" {
		return "x"
	}
	changed := []byte(text)
	i := random.IntN(len(changed))
	for changed[i] == text[i] {
		changed[i] = "ABCDEFabcdef0123456789"[random.IntN(22)]
	}
	return string(changed)
}

var signedNames = []string{"X-TIMESTAMP", "X-PARTNER-ID", "Authorization", "X-SIGNATURE"}

var mutations = []mutation{
	{"nothing", func(*rand.Rand, *wireCall) {}},
	{"an unsigned header", func(random *rand.Rand, c *wireCall) {
		h := unsignedHeaders[random.IntN(len(unsignedHeaders))]
		if h[0] == "Expect" || h[0] == "Upgrade" || h[0] == "Connection" || h[0] == "Host" || h[0] == "CHANNEL-ID" {
			return // other tests have them
		}
		c.headers = slices.Insert(c.headers, random.IntN(len(c.headers)), h)
	}},
	{"names in another case, in another order", func(random *rand.Rand, c *wireCall) {
		for i := range c.headers {
			c.headers[i][0] = strings.ToLower(c.headers[i][0])
		}
		random.Shuffle(len(c.headers), func(i, j int) { c.headers[i], c.headers[j] = c.headers[j], c.headers[i] })
	}},
	{"chunks", func(_ *rand.Rand, c *wireCall) { c.chunked = true }},
	{"another external id", func(random *rand.Rand, c *wireCall) { c.set("X-EXTERNAL-ID", fmt.Sprint(random.Uint64())) }},
	{"another channel", func(random *rand.Rand, c *wireCall) { c.set("CHANNEL-ID", fmt.Sprint(random.IntN(1e5))) }},
	{"blanks round values", func(random *rand.Rand, c *wireCall) {
		i := random.IntN(len(c.headers))
		c.headers[i][1] = " \t" + c.headers[i][1] + "  "
	}},
	{"the scheme in another case", func(_ *rand.Rand, c *wireCall) {
		c.set("Authorization", strings.Replace(c.get("Authorization"), "Bearer ", "bEARER   ", 1))
	}},
	{"a byte of the body", func(random *rand.Rand, c *wireCall) { c.body = []byte(flip(random, string(c.body))) }},
	{"a shorter body", func(random *rand.Rand, c *wireCall) { c.body = c.body[:random.IntN(len(c.body)+1)/2] }},
	{"a longer body", func(random *rand.Rand, c *wireCall) {
		c.body = append(bytes.Clone(c.body), []string{"x", "{}", "\x00", `,"a":1`}[random.IntN(4)]...)
	}},
	{"another amount", func(random *rand.Rand, c *wireCall) {
		c.body = bytes.Replace(c.body, []byte("11500.00"), fmt.Appendf(nil, "%d.00", 20000+random.IntN(1e6)), 1)
	}},
	{"a member more", func(_ *rand.Rand, c *wireCall) {
		c.body = append([]byte(`{"paidAmount":{"value":"1.00"},`), c.body[min(1, len(c.body)):]...)
	}},
	{"a byte of a signed header", func(random *rand.Rand, c *wireCall) {
		name := signedNames[random.IntN(len(signedNames))]
		value := c.get(name)
		if scheme, token, found := strings.Cut(value, " "); found && name == "Authorization" {
			c.set(name, scheme+" "+flip(random, token))
			return
		}
		c.set(name, flip(random, value))
	}},
	{"a signed header away", func(random *rand.Rand, c *wireCall) {
		name := append([]string{"X-EXTERNAL-ID"}, signedNames...)[random.IntN(5)]
		c.headers = slices.DeleteFunc(c.headers, func(h [2]string) bool { return strings.EqualFold(h[0], name) })
	}},
	{"a signed header twice", func(random *rand.Rand, c *wireCall) {
		name := append([]string{"X-EXTERNAL-ID"}, signedNames...)[random.IntN(5)]
		value := c.get(name)
		if random.IntN(2) == 0 {
			value = flip(random, value)
		}
		c.headers = slices.Insert(c.headers, random.IntN(len(c.headers)), [2]string{name, value})
	}},
	{"another time", func(random *rand.Rand, c *wireCall) {
		layout := timestampForms[random.IntN(len(timestampForms))]
		at := time.Now().Add(time.Duration(1+random.IntN(1e6)) * -time.Second).In(time.FixedZone("", random.IntN(50)*900))
		c.set("X-TIMESTAMP", at.Format(layout))
	}},
	{"the same time in other words", func(_ *rand.Rand, c *wireCall) {
		at, err := time.Parse(time.RFC3339, c.get("X-TIMESTAMP"))
		if err == nil {
			c.set("X-TIMESTAMP", at.In(time.FixedZone("", 9*3600)).Format("2006-01-02T15:04:05.0-07"))
		}
	}},
	{"another path", func(random *rand.Rand, c *wireCall) {
		c.target = []string{
			inquiryPath, "/v1/transfer-va/payment", paymentPath + "/", paymentPath + "?a=1", "/" + paymentPath[1:] + ";x=1",
			"/v1.1/transfer-va/%70ayment", "/v1.1/transfer-va//payment", "/v1.1/transfer-va/./payment", "/v1.1/transfer-va/x/../payment",
			"/V1.1/transfer-va/payment", "/v1.1/transfer-va/inquiry/../payment", "/v1.1/transfer-va/payment#x",
		}[random.IntN(12)]
	}},
	{"another method", func(random *rand.Rand, c *wireCall) {
		c.method = []string{"PUT", "GET", "DELETE", "PATCH", "post", "HEAD", "OPTIONS", "POSTT", "TRACE"}[random.IntN(9)]
	}},
	{"another signature", func(random *rand.Rand, c *wireCall) {
		raw, _ := base64.StdEncoding.DecodeString(c.get("X-SIGNATURE"))
		c.set("X-SIGNATURE", []string{
			base64.RawStdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw[:max(0, len(raw)-1)]), fmt.Sprintf("%x", raw), "",
			base64.StdEncoding.EncodeToString(make([]byte, 64)), c.get("X-SIGNATURE") + "=", c.get("X-SIGNATURE") + "," + c.get("X-SIGNATURE"),
		}[random.IntN(7)])
	}},
	{"another partner", func(random *rand.Rand, c *wireCall) {
		c.set("X-PARTNER-ID", []string{"", "BRN-9", strings.ToLower(clientID), clientID + ",BRN-9", clientID[:len(clientID)-1]}[random.IntN(5)])
	}},
	{"another token", func(random *rand.Rand, c *wireCall) {
		token := strings.TrimPrefix(c.get("Authorization"), "Bearer ")
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			c.set("Authorization", "Bearer")
			return
		}
		c.set("Authorization", "Bearer "+[]string{
			"", "x", parts[0] + "." + parts[1] + ".", parts[0] + "." + parts[1], token + ".", token + "=", token + " x", `"` + token + `"`,
			base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		}[random.IntN(9)])
	}},
	{"JSON in other words", func(random *rand.Rand, c *wireCall) {
		var value map[string]any
		if json.Unmarshal(c.body, &value) != nil {
			c.body = nil
			return
		}
		value["customerNo"] = []any{1, "1 ", nil, []string{"1"}, 1.5}[random.IntN(5)]
		text, err := json.Marshal(value)
		if err == nil {
			c.body = text
		}
	}},
}

// rewhite adds white space between the tokens of JSON, which DOKU's minifier takes away.
func rewhite(body []byte) []byte {
	var out bytes.Buffer
	_ = json.Indent(&out, body, "", "\t")
	return out.Bytes()
}

func TestNoMutatedCallReachesTheApp(t *testing.T) {
	t.Parallel()
	env, app := newEnv(t), newWitness(t)
	env.variables = []string{"OTEL_TRACES_EXPORTER=none"}
	config := strings.Replace(env.caddyfile(options{app: app.address}), "level DEBUG", "level ERROR", 1)
	others := "\t@other not path " + tokenPath + " /v1.1/transfer-va/*\n\trespond @other 404\n" // no other path gets a 2xx
	env.run(t, strings.Replace(config, "\tdoku_token ", others+"\tdoku_token ", 1))
	random := rand.New(rand.NewPCG(12, 2026))
	token := env.token(t)
	sent, genuine, counts := 0, 0, make(map[string]int)
	for n := range attacks {
		id := fmt.Sprintf("P-%06d-X", n)
		body := payment(id)
		if random.IntN(4) == 0 {
			body = rewhite(body)
		}
		timestamp := time.Now().Add(time.Duration(random.IntN(120)) * -time.Second).In(time.FixedZone("", 7*3600)).Format(time.RFC3339)
		c := env.recordCall(t, token, id, timestamp, body)
		signed := c
		signed.headers = slices.Clone(c.headers)
		for range 1 + random.IntN(3) {
			m := mutations[random.IntN(len(mutations))]
			before := string(c.bytes(rand.New(rand.NewPCG(1, 1))))
			m.change(random, &c)
			if string(c.bytes(rand.New(rand.NewPCG(1, 1)))) != before {
				counts[m.name]++
			}
		}
		spoilt := !c.isDOKUs(&signed)
		if !spoilt {
			genuine++
		}
		status := env.send(t, c.bytes(random))
		sent++
		got := app.of(id)
		switch {
		case spoilt && (len(got) > 0 || status >= 200 && status < 300):
			t.Fatalf("attack %d, HTTP %d: a call that is not DOKU's reached the app:\n%s", n, status, c.bytes(random))
		case !spoilt && (len(got) != 1 || status != http.StatusOK):
			t.Fatalf("attack %d, HTTP %d: DOKU's call reached the app %d times:\n%s", n, status, len(got), c.bytes(random))
		case !spoilt:
			if got[0].body != string(c.body) {
				t.Fatalf("attack %d: the app saw %q, DOKU sent %q", n, got[0].body, c.body)
			}
			got[0].clean(t, "127.0.0.1")
		}
		if t.Failed() {
			t.Fatalf("attack %d:\n%s", n, c.bytes(random))
		}
		app.forget()
	}
	for _, m := range mutations[1:] {
		if counts[m.name] < attacks/100 {
			t.Errorf("%q was tried %d times only", m.name, counts[m.name])
		}
	}
	if sent != attacks || genuine < attacks/20 || genuine > attacks/2 {
		t.Errorf("%d calls were sent, %d of them DOKU's", sent, genuine)
	}
	t.Logf("%d calls, %d of them DOKU's; %d kinds of mutation", sent, genuine, len(mutations))
}

// send sends bytes to the inbound site, and returns the status of the answer, or 0.
func (env *testEnv) send(t *testing.T, call []byte) int {
	t.Helper()
	conn := connect(t, env.inward)
	defer conn.Close()
	if _, err := conn.Write(call); err != nil {
		return 0 // the server has hung up
	}
	line, err := textproto.NewReader(bufio.NewReader(conn)).ReadLine()
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, conn)
	var status int
	_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
	return status
}

// A recorded call that is sent again and again is one call, whatever is not signed.
func TestARecordedCallWithOtherHeadersIsARepeat(t *testing.T) {
	t.Parallel()
	env, app := newEnv(t), newWitness(t)
	env.run(t, env.nameless(env.caddyfile(options{app: app.address})))
	for _, header := range unsignedHeaders[:12] {
		env.notify(t, simulator.Outgoing{Body: payment("P-1"), Mutate: func(r *http.Request) { add(r, header) }}).
			expect(t, http.StatusOK, "2002500")
	}
	if got := app.of("P-1"); len(got) != 1 {
		t.Errorf("the app was called %d times", len(got))
	}
}
