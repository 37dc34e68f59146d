package callstore

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func openBolt(t testing.TB, folder string) *Bolt {
	t.Helper()
	b, err := OpenBolt(BoltConfig{Folder: folder, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openRedis returns the store in a Redis, for the account "account" with a secret.
func openRedis(t testing.TB, cfg store.RedisConfig) *Redis {
	t.Helper()
	r, err := store.NewRedis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	scope := store.Scope(r, "account")
	if err := scope.SetSecrets([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	return NewRedis(r, func(string) *store.Scoped { return scope }, "account")
}

// newRedis returns the store in a server of its own.
func newRedis(t testing.TB) *Redis {
	t.Helper()
	return openRedis(t, store.RedisConfig{URL: doktest.StartRedis(t).URL})
}

var (
	epoch  = time.Date(2024, 3, 26, 16, 0, 0, 0, time.UTC)
	thanks = store.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"responseCode":"2002500"}`)}
)

// call returns a call of the service 25 (virtual account payment).
func call(key, orderingKey string) Call {
	return Call{
		Key: key, Inbox: "box", Account: "account", OrderingKey: orderingKey, Service: "25", ExternalID: "E-" + key, PaymentID: "P-" + key,
		Host: "merchant.example", Target: "/v1.1/transfer-va/payment?x=%2F",
		Header: http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}},
		Body:   []byte(`{"paymentRequestId":"` + key + `"}`), Received: epoch, Due: epoch,
	}
}
