package integration

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// tokenRequest sends DOKU's token request with a timestamp.
func (env *testEnv) tokenRequest(t *testing.T, timestamp string) answer {
	t.Helper()
	a, err := env.doku.RequestToken(t.Context(), func(r *http.Request) {
		sum := sha256.Sum256([]byte(clientID + "|" + timestamp))
		raw, err := rsa.SignPKCS1v15(nil, doktest.Key(t, doktest.DOKUKey), crypto.SHA256, sum[:])
		if err != nil {
			t.Error(err)
		}
		r.Header.Set("X-TIMESTAMP", timestamp)
		r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(raw))
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer{a.Status, a.Header, string(a.Body)}
}

// granted returns the token in an answer, and when it expires.
func (a answer) granted(t *testing.T) (token string, expires time.Time) {
	t.Helper()
	a.expect(t, http.StatusOK, "2007300")
	found := accessToken.FindStringSubmatch(a.body)
	if found == nil || !strings.Contains(a.body, `"expiresIn":900`) {
		t.Fatalf("found %s", a.body)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(found[1], &claims); err != nil {
		t.Fatal(err)
	}
	return found[1], claims.ExpiresAt.Time
}

func TestARecordedTokenRequestYieldsNothingNew(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	other := env.another(t)
	other.run(t, other.caddyfile(options{})) // with no store in common
	began := time.Now()
	for _, ago := range []time.Duration{0, 9 * time.Minute, -time.Minute} {
		timestamp := time.Now().Add(-ago).Format(time.RFC3339)
		token, expires := env.tokenRequest(t, timestamp).granted(t)
		for _, sidecar := range []*testEnv{env, other, env} {
			again, until := sidecar.tokenRequest(t, timestamp).granted(t)
			if again != token || !until.Equal(expires) {
				t.Errorf("the same request got another token, good until %s, not %s", until, expires)
			}
		}
		if expires.Before(time.Now().Add(890*time.Second)) || expires.After(began.Add(28*time.Minute)) {
			t.Errorf("a token that promises 900 s expires at %s", expires)
		}
		env.notify(t, simulator.Outgoing{Bearer: token, Body: payment("P" + timestamp)}).expect(t, http.StatusOK, "2002500")
	}
	first, _ := env.tokenRequest(t, began.Add(-time.Minute).Format(time.RFC3339)).granted(t)
	if second, _ := env.tokenRequest(t, began.Add(-time.Minute).Format("2006-01-02T15:04:05.000Z07:00")).granted(t); second == first {
		t.Error("two requests got the same token")
	}
}

// timestampForms are ways to write a time that ISO 8601 has.
var timestampForms = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-07:00", "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05-07",
	"2006-01-02T15:04:05-07:00:00", "2006-01-02T15:04:05.000-07", "2006-01-02T15:04:05,000000-0700", "20060102T150405-0700",
	"20060102T150405-07", "2006-01-02t15:04:05-07:00", "20060102T150405.000Z07",
}

func TestEveryOffsetIsRead(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for i, layout := range timestampForms {
		for j, zone := range []int{0, 7 * 3600, -5 * 3600, 14 * 3600} {
			in := time.FixedZone("", zone)
			written := func(d time.Duration) string { return time.Now().Add(d).In(in).Format(layout) }
			env.tokenRequest(t, written(0)).granted(t)
			env.tokenRequest(t, written(-20*time.Minute)).expect(t, http.StatusBadRequest, "4007301")
			env.tokenRequest(t, written(20*time.Minute)).expect(t, http.StatusBadRequest, "4007301")
			body := payment(fmt.Sprintf("P-%d-%d", i, j))
			env.notify(t, simulator.Outgoing{Timestamp: written(0), Body: body}).expect(t, http.StatusOK, "2002500")
			env.notify(t, simulator.Outgoing{Timestamp: written(-11 * time.Minute), Body: body}).expect(t, http.StatusBadRequest, "4002501")
			env.notify(t, simulator.Outgoing{Timestamp: written(3 * time.Minute), Body: body}).expect(t, http.StatusBadRequest, "4002501")
			// The same instant in another form is another text than the one that was signed.
			env.notify(t, simulator.Outgoing{Timestamp: written(0), Body: body, Mutate: func(r *http.Request) {
				r.Header.Set("X-TIMESTAMP", time.Now().In(in).Format("2006-01-02T15:04:05.0000-07:00"))
			}}).expect(t, http.StatusUnauthorized, "4012500")
			if t.Failed() {
				t.Fatalf("in the form %s", written(0))
			}
		}
	}
	env.notify(t, simulator.Outgoing{Timestamp: time.Now().UTC().Format("2006-01-02T15:04:05") + "-00:00"}).expect(t, http.StatusOK, "2002500")
	env.notify(t, simulator.Outgoing{Timestamp: time.Now().UTC().Format("2006-01-02t15:04:05z")}).expect(t, http.StatusOK, "2002500")
	for _, wrong := range []string{
		time.Now().Format("2006-01-02T15:04:05"), time.Now().UTC().Format("2006-01-02 15:04:05Z"), fmt.Sprint(time.Now().Unix()),
		time.Now().UTC().Format("2006-02-30T15:04:05Z"),
	} {
		env.tokenRequest(t, wrong).expect(t, http.StatusBadRequest, "4007301")
	}
}
