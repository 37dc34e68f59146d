package inbound

import (
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestOnlyServicesThatDOKUCallsTheMerchantForAreTaken(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	for n := range 100 {
		service := string([]byte{'0' + byte(n/10), '0' + byte(n%10)})
		v := Verify{Service: service}
		if err := v.Provision(h.Ctx); err != nil {
			t.Fatal(err)
		}
		err := v.Validate()
		switch service {
		case "24", "25", "56":
			if err != nil {
				t.Errorf("%s: %v", service, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "expected 24 (inquiries about a virtual account), 25 (") {
			t.Errorf("%s: %v", service, err)
		}
		mine := snap.MethodOf(snap.Service(service)) != ""
		if err != nil && strings.Contains(err.Error(), "one that you call at DOKU") != mine {
			t.Errorf("%s: %v", service, err)
		}
	}
	for _, odd := range []string{"2", "250", " 25", "٢٥", "payment"} {
		if err := (&Verify{Service: odd}).Validate(); err == nil {
			t.Errorf("%q is taken", odd)
		}
	}
}
