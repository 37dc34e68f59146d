package signer

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

func TestSignatures(t *testing.T) {
	t.Parallel()
	key, err := ParsePrivateKey([]byte(testKey(t, "test-merchant-private.pem")), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Known answers, computed independently; see also testdata/vectors.json.
	got, err := Asymmetric(key, "BRN-0000-0000000000000", "2022-10-07T14:18:39+07:00")
	if err != nil || got[:32] != "IYENnQH3LVshB4bmXGqh2wEblxpi4P0s" {
		t.Errorf("asymmetric signature %s, %v", got, err)
	}
	symmetric := Symmetric(snap.NewSecret([]byte("SK-test-0123456789ABCDEF")), Call{
		Method: "GET", Target: "/orders/v1.0/transfer-va/status", Token: "testB2BtokenABC123",
		Digest: snap.Digest(nil), Timestamp: "2024-03-26T16:01:41+07:00",
	})
	if symmetric != "Ien035oWG10CP7o+Y5ThBUBeptiQBWIVe0hrVzvgcacETQEnRUeXuY5rKz3oVuNAZxflyq03AsH0RIgcsuG8MQ==" {
		t.Errorf("symmetric signature %s", symmetric)
	}
}

func TestExternalIDs(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 3, 26, 16, 0, 0, 0, snap.WIB)
	seen := make(map[string]bool)
	for range 10_000 {
		id, err := ExternalID(now, rand.Reader)
		if err != nil || len(id) != 32 || !ValidExternalID(id) || seen[id] {
			t.Fatalf("external id %q, %v", id, err)
		}
		seen[id] = true
	}
	for id, ok := range map[string]bool{"1": true, "": false, "12a": false, "123456789012345678901234567890123456": true, "1234567890123456789012345678901234567": false} {
		if ValidExternalID(id) != ok {
			t.Errorf("ValidExternalID(%q) = %v", id, !ok)
		}
	}
}
