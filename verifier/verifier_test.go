package verifier

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/snap"
)

var (
	noon    = time.Date(2024, 8, 27, 12, 0, 0, 0, snap.WIB)
	secret  = snap.NewSecret([]byte("SK-test-0123456789ABCDEF"))
	retired = snap.NewSecret([]byte("SK-the-one-before"))
)

const client = "BRN-0000-0000000000000"

func fixed(at time.Time) func() time.Time { return func() time.Time { return at } }

func issuer(t testing.TB, clientID string, at time.Time, secrets ...*snap.Secret) *Issuer {
	t.Helper()
	i, err := NewIssuer(clientID, secrets, fixed(at))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func issue(t testing.TB, i *Issuer) string {
	t.Helper()
	token, err := i.Issue()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Call is a DOKU call.
type Call struct {
	Method, Target string
	Header         http.Header
	Body           []byte
}

// verify checks a call as a whole.
func verify(v *Verifier, c Call, now time.Time) (Verified, error) {
	return v.Verify(c.Method, c.Target, c.Header, c.Body, now)
}

// genuine returns a call signed by DOKU at noon with key.
func genuine(t testing.TB, key *snap.Secret, body string) Call {
	t.Helper()
	token := issue(t, issuer(t, client, noon, key))
	timestamp := snap.Timestamp(noon)
	minified, err := snap.AppendMinified(nil, []byte(body))
	if err != nil {
		minified = []byte(body)
	}
	const target = "/v1.1/transfer-va/payment?x=%2F"
	h := http.Header{}
	h.Set(snap.HeaderTimestamp, timestamp)
	h.Set(snap.HeaderPartnerID, client)
	h.Set(snap.HeaderExternalID, "VA004-1")
	h.Set(snap.HeaderAuthorization, "Bearer "+token)
	h.Set(snap.HeaderSignature, key.Signature(snap.AppendStringToSign(nil, http.MethodPost, target, token, snap.Digest(minified), timestamp)))
	return Call{Method: http.MethodPost, Target: target, Header: h, Body: []byte(body)}
}

// config accepts DOKU's calls at the instant at, as most accounts do.
func config(t testing.TB, at time.Time) Config {
	t.Helper()
	return Config{PartnerID: client, Secrets: []*snap.Secret{secret, retired}, Tokens: issuer(t, client, at, secret, retired)}
}

func verifier(t testing.TB, at time.Time) *Verifier {
	t.Helper()
	v, err := New(config(t, at))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	t.Parallel()
	const body = `{"paymentRequestId":"1","paidAmount":{"value":"11500.00"}}`
	tests := []struct {
		name   string
		key    *snap.Secret
		body   string
		after  time.Duration // how long after signing it arrives
		change func(*Call)
		err    error
		form   BodyForm
	}{
		{name: "genuine", form: BodyAsReceived},
		{name: "signed with the secret before a change of secrets", key: retired, form: BodyAsReceived},
		{name: "pretty-printed, signed minified", body: "{ \"a\" : \"b  c\" }", form: BodyMinified},
		{name: "escaped, signed raw", body: `{"a":"b\/c"}`, form: BodyCanonical, change: func(c *Call) {
			token := c.Header.Get(snap.HeaderAuthorization)[len("Bearer "):]
			c.Header.Set(
				snap.HeaderSignature,
				secret.Signature(
					snap.AppendStringToSign(nil, c.Method, c.Target, token, snap.Digest([]byte(`{"a":"b/c"}`)), c.Header.Get(snap.HeaderTimestamp)),
				),
			)
		}},
		{name: "ten minutes old", after: 10 * time.Minute, form: BodyAsReceived},
		{name: "two minutes ahead", after: -2 * time.Minute, form: BodyAsReceived},
		{name: "too old", after: 10*time.Minute + time.Second, err: ErrTimestampOld},
		{name: "too far ahead", after: -2*time.Minute - time.Second, err: ErrTimestampFuture},
		{
			name:   "as old as can be written",
			change: func(c *Call) { c.Header.Set(snap.HeaderTimestamp, "0000-01-01T00:00:00Z") },
			err:    ErrTimestampOld,
		},
		{
			name:   "as far ahead as can be written",
			change: func(c *Call) { c.Header.Set(snap.HeaderTimestamp, "9999-12-31T23:59:59Z") },
			err:    ErrTimestampFuture,
		},
		{name: "body changed", change: func(c *Call) { c.Body[len(c.Body)-5]++ }, err: ErrSignature},
		{name: "method changed", change: func(c *Call) { c.Method = "PUT" }, err: ErrSignature},
		{name: "escape in the target decoded", change: func(c *Call) { c.Target = "/v1.1/transfer-va/payment?x=/" }, err: ErrSignature},
		{
			name:   "time changed",
			change: func(c *Call) { c.Header.Set(snap.HeaderTimestamp, snap.Timestamp(noon.Add(time.Second))) },
			err:    ErrSignature,
		},
		{
			name:   "the same instant written otherwise",
			change: func(c *Call) { c.Header.Set(snap.HeaderTimestamp, noon.UTC().Format(time.RFC3339)) },
			err:    ErrSignature,
		},
		{name: "signed with another secret", key: snap.NewSecret([]byte("SK-other")), err: ErrTokenInvalid},
		{name: "signature in URL-safe base64", change: func(c *Call) {
			raw, _ := base64.StdEncoding.DecodeString(c.Header.Get(snap.HeaderSignature))
			c.Header.Set(snap.HeaderSignature, base64.RawURLEncoding.EncodeToString(raw))
		}, err: ErrSignatureFormat},
		{name: "another partner id", change: func(c *Call) { c.Header.Set(snap.HeaderPartnerID, "BRN-9") }, err: ErrClientUnknown},
		{name: "no external id", change: func(c *Call) { c.Header.Del(snap.HeaderExternalID) }, err: ErrHeaderMissing},
		{name: "two timestamps", change: func(c *Call) { c.Header.Add(snap.HeaderTimestamp, "x") }, err: ErrHeaderRepeated},
		{name: "a space in the external id", change: func(c *Call) { c.Header.Set(snap.HeaderExternalID, "a b") }, err: ErrHeaderFormat},
		{name: "signed, but not JSON", body: "paymentRequestId=1", err: ErrBodyFormat},
		{name: "no bearer", change: func(c *Call) { c.Header.Del(snap.HeaderAuthorization) }, err: ErrTokenMissing},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.key == nil {
				test.key = secret
			}
			if test.body == "" {
				test.body = body
			}
			call := genuine(t, test.key, test.body)
			if test.change != nil {
				test.change(&call)
			}
			now := noon.Add(test.after)
			got, err := verify(verifier(t, now), call, now)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			if test.err != nil {
				if _, ok := errors.AsType[*Refusal](err); !ok || Reason(err) == "other" {
					t.Errorf("%v is not a refusal with a reason", err)
				}
			} else if got.BodyForm != test.form {
				t.Errorf("matched as %s, expected %s", got.BodyForm, test.form)
			}
		})
	}
}

func TestOtherWaysOfSigning(t *testing.T) {
	t.Parallel()
	doku := doktest.Key(t, doktest.DOKUKey)
	const body = `{"partnerServiceId":"    8808","paymentRequestId":"1"}`
	// symmetric signs c with a token that may be empty.
	symmetric := func(token string) func(*Call) {
		return func(c *Call) {
			c.Header.Del(snap.HeaderAuthorization)
			if token != "" {
				c.Header.Set(snap.HeaderAuthorization, "Bearer "+token)
			}
			c.Header.Set(
				snap.HeaderSignature,
				secret.Signature(snap.AppendStringToSign(nil, c.Method, c.Target, token, snap.Digest(c.Body), c.Header.Get(snap.HeaderTimestamp))),
			)
		}
	}
	asymmetric := func(c *Call) {
		c.Header.Del(snap.HeaderAuthorization)
		sum := sha256.Sum256(
			[]byte(c.Method + ":" + c.Target + ":" + hex.EncodeToString(sha256Of(c.Body)) + ":" + c.Header.Get(snap.HeaderTimestamp)),
		)
		raw, err := rsa.SignPKCS1v15(rand.Reader, doku, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		c.Header.Set(snap.HeaderSignature, base64.StdEncoding.EncodeToString(raw))
	}
	about := func(body string) func(*Call) {
		return func(c *Call) {
			c.Body = []byte(body)
			asymmetric(c)
		}
	}
	both := []SignatureForm{Symmetric, Asymmetric}
	tests := []struct {
		name   string
		token  TokenMode
		forms  []SignatureForm
		change func(*Call)
		form   SignatureForm
		err    error
	}{
		{"a token of somebody else's, if any will do", TokenAny, nil, symmetric("theirs"), Symmetric, nil},
		{"no token, if any will do", TokenAny, nil, symmetric(""), Symmetric, nil},
		{"no token, if none is expected", TokenNone, nil, symmetric(""), Symmetric, nil},
		{"a token in the string to sign, if none is expected", TokenNone, nil, symmetric("theirs"), "", ErrSignature},
		{"a token of somebody else's, as usual", "", nil, symmetric("theirs"), "", ErrTokenInvalid},
		{"no token, as usual", TokenIssued, nil, symmetric(""), "", ErrTokenMissing},
		{"asymmetric", "", []SignatureForm{Asymmetric}, asymmetric, Asymmetric, nil},
		{"asymmetric, as usual", "", nil, asymmetric, "", ErrTokenMissing},
		{
			"asymmetric, if only symmetric is accepted, said twice",
			TokenAny,
			[]SignatureForm{Symmetric, Symmetric},
			asymmetric,
			"",
			ErrSignatureFormat,
		},
		{"asymmetric, if both are accepted", "", both, asymmetric, Asymmetric, nil},
		{"symmetric, if both are accepted", "", both, nil, Symmetric, nil},
		{"symmetric without a token, if both are accepted", "", both, symmetric(""), "", ErrTokenMissing},
		{"symmetric, if only asymmetric is accepted", "", []SignatureForm{Asymmetric}, nil, "", ErrSignatureFormat},
		{"asymmetric for another partner service", "", both, about(`{"partnerServiceId":"   88899"}`), "", ErrPartnerService},
		{"asymmetric for one that only begins like ours", "", both, about(`{"partnerServiceId":"   88081"}`), "", ErrPartnerService},
		{
			"asymmetric for ours and, last, another one",
			"",
			both,
			about(`{"partnerServiceId":"    8808","partnerServiceId":"   88899"}`),
			"",
			ErrPartnerService,
		},
		{"asymmetric for ours, but not at the top", "", both, about(`{"additionalInfo":{"partnerServiceId":"    8808"}}`), "", ErrPartnerService},
		{
			"asymmetric for no partner service",
			"",
			both,
			about(`{"originalExternalId":"1","latestTransactionStatus":"00"}`),
			"",
			ErrPartnerService,
		},
		{"asymmetric for one that is empty", "", both, about(`{"partnerServiceId":"        "}`), "", ErrPartnerService},
		{"asymmetric for one without padding", "", both, about(`{"partnerServiceId":"8808"}`), Asymmetric, nil},
		{"asymmetric without JSON, that may be for any merchant", "", both, about(`partnerServiceId=8808`), "", ErrBodyFormat},
		{"asymmetric with the body changed", "", both, func(c *Call) { asymmetric(c); c.Body[3]++ }, "", ErrSignature},
		{"asymmetric with the target changed", "", both, func(c *Call) { asymmetric(c); c.Target += "&y" }, "", ErrSignature},
		{
			"a garbled signature, if both are accepted",
			"",
			both,
			func(c *Call) { c.Header.Set(snap.HeaderSignature, "!") },
			"",
			ErrSignatureFormat,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, noon)
			cfg.Token, cfg.Signatures, cfg.Keys = test.token, test.forms, []*rsa.PublicKey{&doku.PublicKey}
			cfg.PartnerServices = []string{"19008", "8808"}
			v, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			call := genuine(t, secret, body)
			if test.change != nil {
				test.change(&call)
			}
			got, err := verify(v, call, noon)
			if !errors.Is(err, test.err) || got.Signature != test.form {
				t.Errorf("signature %q, error %v, expected %q and %v", got.Signature, err, test.form, test.err)
			}
		})
	}
}

func sha256Of(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func TestTokensAreTheirAccountsOnly(t *testing.T) {
	t.Parallel()
	mine := issuer(t, client, noon, secret)
	claims := jwt.MapClaims{"iss": tokenIssuer, "sub": client, "aud": tokenPurpose, "exp": noon.Add(time.Hour).Unix()}
	with := func(name string, value any) jwt.MapClaims {
		c := jwt.MapClaims{}
		maps.Copy(c, claims)
		if value == nil {
			delete(c, name)
		} else {
			c[name] = value
		}
		return c
	}
	sign := func(method jwt.SigningMethod, key any, c jwt.Claims) string {
		text, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	key := mine.keys[0]
	tests := []struct {
		name, token string
		err         error
	}{
		{"issued here", issue(t, mine), nil},
		{"issued by another replica with the same secret", issue(t, issuer(t, client, noon, secret)), nil},
		{"issued under the secret before", issue(t, issuer(t, client, noon, retired)), ErrTokenInvalid},
		{"about to expire", issue(t, issuer(t, client, noon.Add(-TokenLife+time.Second), secret)), nil},
		{"expired", issue(t, issuer(t, client, noon.Add(-TokenLife), secret)), ErrTokenExpired},
		{"another account's, same secret", issue(t, issuer(t, "BRN-9", noon, secret)), ErrTokenInvalid},
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims), ErrTokenInvalid},
		{"HS512 with the right key", sign(jwt.SigningMethodHS512, key, claims), ErrTokenInvalid},
		{"HS256 with the bare secret", sign(jwt.SigningMethodHS256, secret.Bytes(), claims), ErrTokenInvalid},
		{"without an expiry", sign(jwt.SigningMethodHS256, key, with("exp", nil)), ErrTokenInvalid},
		{"for another purpose", sign(jwt.SigningMethodHS256, key, with("aud", "else")), ErrTokenInvalid},
		{"by another issuer", sign(jwt.SigningMethodHS256, key, with("iss", "else")), ErrTokenInvalid},
		{"garbage", "a.b.c", ErrTokenInvalid},
		{"nothing", "", ErrTokenInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := mine.Check(test.token); !errors.Is(err, test.err) {
				t.Errorf("error %v, expected %v", err, test.err)
			}
		})
	}
	t.Run("a token found good before expires all the same", func(t *testing.T) {
		t.Parallel()
		now := noon
		i, err := NewIssuer(client, []*snap.Secret{secret}, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		token := issue(t, i)
		for range 2 {
			if err := i.Check(token); err != nil {
				t.Fatal(err)
			}
		}
		if err := i.Check(token[:len(token)-1]); !errors.Is(err, ErrTokenInvalid) {
			t.Errorf("cut short: %v", err)
		}
		now = noon.Add(TokenLife)
		if err := i.Check(token); !errors.Is(err, ErrTokenExpired) {
			t.Errorf("after its life: %v", err)
		}
	})
	if err := issuer(t, client, noon, secret, retired).Check(issue(t, issuer(t, client, noon, retired))); err != nil {
		t.Errorf("a token from before the change of secrets: %v", err)
	}
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	requests, err := NewTokenRequest(client, []*rsa.PublicKey{&other.PublicKey, &key.PublicKey}, Window{})
	if err != nil {
		t.Fatal(err)
	}
	signed := func(key *rsa.PrivateKey, clientKey string) http.Header {
		sum := sha256.Sum256([]byte(clientKey + "|" + snap.Timestamp(noon)))
		raw, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		h.Set(snap.HeaderClientKey, clientKey)
		h.Set(snap.HeaderTimestamp, snap.Timestamp(noon))
		h.Set(snap.HeaderSignature, base64.StdEncoding.EncodeToString(raw))
		return h
	}
	const body = `{"grantType":"client_credentials","additionalInfo":{}}`
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		h    http.Header
		body string
		now  time.Time
		err  error
		code string
	}{
		{"genuine", signed(key, client), body, noon, nil, ""},
		{"by the other of two keys", signed(other, client), body, noon, nil, ""},
		{"by a stranger's key", signed(stranger, client), body, noon, ErrSignature, "4017300"},
		{"for another client", signed(key, "BRN-9"), body, noon, ErrClientUnknown, "4017300"},
		{"replayed later", signed(key, client), body, noon.Add(time.Hour), ErrTimestampOld, "4007301"},
		{"without a grant type", signed(key, client), `{}`, noon, ErrGrantTypeMissing, "4007302"},
		{"another grant type", signed(key, client), `{"grantType":"password"}`, noon, ErrGrantType, "4007301"},
		{"not JSON", signed(key, client), `grantType=client_credentials`, noon, ErrBodyFormat, "4007301"},
		{"without headers", http.Header{}, body, noon, ErrHeaderMissing, "4007302"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := requests.Verify(test.h, []byte(test.body), test.now)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Case.Code(snap.ServiceB2BToken) != test.code {
				t.Errorf("response code %s, expected %s", refusal.Case.Code(snap.ServiceB2BToken), test.code)
			}
		})
	}
}

// forged reports whether an error is as it should be for a call that nobody with
// the keys has signed.
func forged(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*Refusal](err); !ok || Reason(err) == "other" {
		t.Errorf("a forgery was taken, or refused without a reason: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	theirs := genuine(f, secret, `{"paymentRequestId":"1"}`)
	f.Add("2024-08-27T12:00:00+07:00", "AAAA", client, "VA004-1", "Bearer x", "/p?q", []byte(`{}`))
	f.Add("2024-08-27T12:00:00+07:00", strings.Repeat("A", 86)+"==", client, "1", theirs.Header.Get(snap.HeaderAuthorization), theirs.Target,
		theirs.Body)
	f.Add("2024-08-27T05:00:00.000Z", strings.Repeat("A", 342)+"==", client, "VIRTUAL_ACCOUNT222623",
		"bearer "+theirs.Header.Get(snap.HeaderAuthorization)[7:], "//", []byte("\ufeff{}"))
	f.Add("", "", "", "", "", "", []byte(nil))
	f.Add("2024-08-27T12:00:00+07:00", "A===", "BRN", "a b", "Basic x", "http://h/p", []byte(`{"a":1,"a":2}`))
	doku := doktest.Key(f, doktest.DOKUKey)
	f.Fuzz(func(t *testing.T, timestamp, signature, partner, external, authorization, target string, body []byte) {
		h := http.Header{
			"X-Timestamp": {timestamp}, "X-Signature": {signature}, "X-Partner-Id": {partner},
			"X-External-Id": {external}, "Authorization": {authorization},
		}
		for _, token := range []TokenMode{TokenIssued, TokenAny, TokenNone} {
			cfg := config(t, noon)
			cfg.Token, cfg.Signatures, cfg.Keys = token, []SignatureForm{Symmetric, Asymmetric}, []*rsa.PublicKey{&doku.PublicKey}
			cfg.PartnerServices = []string{"8808"}
			v, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, err = verify(v, Call{Method: http.MethodPost, Target: target, Header: h, Body: body}, noon)
			forged(t, err)
		}
	})
}

// FuzzAlteredCall alters a genuine call: none of it may be changed but for what is
// not signed, the external id, and the white space and escapes of the body.
func FuzzAlteredCall(f *testing.F) {
	f.Add(0, byte(1))
	f.Add(25, byte(0x80))
	f.Fuzz(func(t *testing.T, at int, change byte) {
		call := genuine(t, secret, `{"paymentRequestId":"1","paidAmount":{"value":"11500.00"}}`)
		if at < 0 || at >= len(call.Body) || change == 0 {
			return
		}
		before := string(call.Body)
		call.Body[at] ^= change
		got, err := verify(verifier(t, noon), call, noon)
		if err == nil && string(got.Canonical) != before {
			t.Errorf("%q was taken for %q", call.Body, before)
		}
	})
}

func FuzzTokenRequest(f *testing.F) {
	f.Add("2024-08-27T12:00:00+07:00", "AAAA", client, []byte(`{"grantType":"client_credentials"}`))
	f.Add("2024-08-27T12:00:00+07:00", strings.Repeat("A", 342)+"==", client, []byte(`{"grantType":"client_credentials","additionalInfo":[]}`))
	f.Add("", "", "", []byte(`{"grantType":5}`))
	requests, err := NewTokenRequest(client, []*rsa.PublicKey{&doktest.Key(f, doktest.DOKUKey).PublicKey}, Window{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, timestamp, signature, clientKey string, body []byte) {
		h := http.Header{"X-Timestamp": {timestamp}, "X-Signature": {signature}, "X-Client-Key": {clientKey}}
		forged(t, requests.Verify(h, body, noon))
	})
}

func FuzzIssuerCheck(f *testing.F) {
	mine := issuer(f, client, noon, secret)
	theirs := issue(f, mine)
	parts := strings.Split(theirs, ".")
	for _, seed := range []string{
		"", ".", "..", "a.b.c", parts[0] + "." + parts[1] + ".", parts[0] + "..",
		theirs + "=", theirs + ".x", "eyJhbGciOiJub25lIn0." + parts[1] + ".",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if token != theirs {
			forged(t, mine.Check(token))
		}
	})
}

func TestAConfigurationThatCouldAcceptNothingIsAnError(t *testing.T) {
	t.Parallel()
	doku := &doktest.Key(t, doktest.DOKUKey).PublicKey
	asymmetric := func(c *Config) {
		c.Signatures, c.Keys, c.PartnerServices = []SignatureForm{Asymmetric}, []*rsa.PublicKey{doku}, []string{"8808"}
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		err    error
	}{
		{"as it should be", func(*Config) {}, nil},
		{"nothing at all", func(c *Config) { *c = Config{} }, ErrConfig},
		{"no partner id", func(c *Config) { c.PartnerID = "" }, ErrConfig},
		{"no secret", func(c *Config) { c.Secrets = nil }, ErrConfig},
		{"a secret that is none", func(c *Config) { c.Secrets = append(c.Secrets, nil) }, ErrConfig},
		{"an empty secret, with which everybody can sign", func(c *Config) { c.Secrets = []*snap.Secret{snap.NewSecret(nil)} }, ErrConfig},
		{"a window that is never open", func(c *Config) { c.Window = Window{Past: -time.Hour} }, ErrConfig},
		{"an issuer without a secret", func(c *Config) { c.Tokens = new(Issuer) }, ErrConfig},
		{"no issuer of the tokens that are expected", func(c *Config) { c.Tokens = nil }, ErrConfig},
		{"no issuer, if any token will do", func(c *Config) { c.Tokens, c.Token = nil, TokenAny }, nil},
		{"no issuer, if none is expected", func(c *Config) { c.Tokens, c.Token = nil, TokenNone }, nil},
		{"another token mode", func(c *Config) { c.Token = "some" }, ErrConfig},
		{"another signature form", func(c *Config) { c.Signatures = []SignatureForm{"quantum"} }, ErrConfig},
		{"only asymmetric", asymmetric, nil},
		{"asymmetric needs neither secret nor issuer", func(c *Config) { asymmetric(c); c.Secrets, c.Tokens = nil, nil }, nil},
		{"asymmetric without a key", func(c *Config) { asymmetric(c); c.Keys = nil }, ErrConfig},
		{"asymmetric with a key that is none", func(c *Config) { asymmetric(c); c.Keys = []*rsa.PublicKey{nil} }, ErrConfig},
		{"asymmetric without a partner service", func(c *Config) { asymmetric(c); c.PartnerServices = nil }, ErrConfig},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, noon)
			test.change(&cfg)
			if v, err := New(cfg); !errors.Is(err, test.err) || (v == nil) != (err != nil) {
				t.Errorf("found %v, %v, expected %v", v, err, test.err)
			}
		})
	}
	for name, keys := range map[string][]*rsa.PublicKey{"no key": nil, "a key that is none": {nil}} {
		if _, err := NewTokenRequest(client, keys, Window{}); !errors.Is(err, ErrConfig) {
			t.Errorf("token requests with %s: %v", name, err)
		}
	}
	if _, err := NewTokenRequest("", []*rsa.PublicKey{doku}, Window{}); !errors.Is(err, ErrConfig) {
		t.Errorf("token requests without a client key: %v", err)
	}
	if _, err := NewTokenRequest(client, []*rsa.PublicKey{doku}, Window{Future: -time.Hour}); !errors.Is(err, ErrConfig) {
		t.Errorf("token requests with a window that is never open: %v", err)
	}
}
