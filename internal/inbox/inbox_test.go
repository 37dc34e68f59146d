package inbox

import (
	"errors"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func TestAnInboxIsReadyIfItCanBeWritten(t *testing.T) {
	t.Parallel()
	leases := store.NewMemory()
	defer leases.Close()
	bolt := openBolt(t, t.TempDir())
	remote, _ := newRedis(t)
	for name, s := range map[string]callstore.Store{"a file": bolt, "Redis": remote} {
		e := newEnv(t, s, leases)
		for range 2 {
			if err := e.Ready(t.Context(), call("k", "l").Account); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if figures, err := e.Stats(t.Context()); err != nil || figures != (callstore.Stats{}) {
			t.Errorf("%s: %+v, %v, expected nothing to be kept", name, figures, err)
		}
	}
	if err := newEnv(t, broken{}, leases).Ready(t.Context(), "a"); !errors.Is(err, callstore.ErrStore) {
		t.Errorf("a store that is away: %v", err)
	}
}
