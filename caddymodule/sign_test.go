package caddymodule

import (
	"errors"
	"testing"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestWhatTheAppIsToldOfACallThatFailed(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	token := &localError{snap.Unavailable, "token", errors.New("no token")}
	for _, test := range []struct {
		name       string
		written    bool
		repeatable *signer.Repeatable
		err        error
		reason     string
	}{
		{"no connection", false, nil, broken, "unreachable"},
		{"no token", false, nil, token, "token"},
		{"broken after it was sent", true, nil, broken, "outcome_unknown"},
		{"no connection for a repeat whose first attempt was not sent either", false, new(signer.Repeatable), broken, "unreachable"},
		{"no connection for a repeat whose first attempt was sent", false, &signer.Repeatable{Uncertain: true}, broken, "outcome_unknown"},
		{"no token for such a repeat", false, &signer.Repeatable{Uncertain: true}, token, "outcome_unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &call{repeatable: test.repeatable}
			c.written.Store(test.written)
			local, ok := errors.AsType[*localError](c.failure(test.err))
			if !ok || local.reason != test.reason || !errors.Is(local, test.err) && !errors.Is(local, token.err) {
				t.Errorf("found %+v, expected reason %s", local, test.reason)
			}
		})
	}
}
