package store

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

func scoped(t *testing.T, s Store, account string, secrets ...string) Store {
	t.Helper()
	var keys [][]byte
	for _, secret := range secrets {
		keys = append(keys, []byte(secret))
	}
	sc := Scope(s, account)
	if len(keys) > 0 {
		if err := sc.SetSecrets(keys...); err != nil {
			t.Fatal(err)
		}
	}
	return sc
}

func TestAScopeKeepsValuesSecretAndInTheirPlace(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	mine := scoped(t, m, "mine", "new secret", "old secret")
	if err := mine.Set(ctx, "token", []byte("eyJ-token"), time.Hour); err != nil {
		t.Fatal(err)
	}
	kept, _ := m.Get(ctx, "{mine}:token")
	if kept == nil || bytes.Contains(kept, []byte("eyJ")) {
		t.Errorf("kept as %q", kept)
	}
	if value, err := scoped(t, m, "mine", "other", "new secret").Get(ctx, "token"); err != nil || string(value) != "eyJ-token" {
		t.Errorf("with the secret in second place: %q, %v", value, err)
	}
	if value, err := scoped(t, m, "other", "new secret").Get(ctx, "token"); err != nil || value != nil {
		t.Errorf("another account sees %q, %v", value, err)
	}
	if _, err := scoped(t, m, "mine", "other").Get(ctx, "token"); !errors.Is(err, ErrStore) || !errors.Is(err, errSeal) {
		t.Errorf("with another secret: %v", err)
	}
	if err := m.Set(ctx, "{mine}:elsewhere", kept, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Get(ctx, "elsewhere"); !errors.Is(err, errSeal) {
		t.Errorf("moved to another key: %v", err)
	}
	if err := m.Set(ctx, "{mine}:token", []byte("forged, and long enough to hold nonce and tag"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Get(ctx, "token"); !errors.Is(err, errSeal) {
		t.Errorf("forged: %v", err)
	}
}

// TestASecretIsChangedStepByStep checks that sidecars read the values of each other
// although one of them is a step behind or ahead.
func TestASecretIsChangedStepByStep(t *testing.T) {
	t.Parallel()
	steps := [][]string{{"OLD"}, {"OLD", "NEW"}, {"NEW", "OLD"}, {"NEW"}}
	for i := range len(steps) - 1 {
		m := newMemory(t)
		for _, order := range [][2]int{{i, i + 1}, {i + 1, i}} {
			writer, reader := scoped(t, m, "brand", steps[order[0]]...), scoped(t, m, "brand", steps[order[1]]...)
			if err := writer.Set(t.Context(), "token", []byte("x"), time.Hour); err != nil {
				t.Fatal(err)
			}
			if value, err := reader.Get(t.Context(), "token"); err != nil || string(value) != "x" {
				t.Errorf("kept with %v, read with %v: %q, %v", steps[order[0]], steps[order[1]], value, err)
			}
		}
	}
}

// readOnly is a store that can only be read, such as a replica.
type readOnly struct{ Store }

func (readOnly) Set(context.Context, string, []byte, time.Duration) error { return ErrStore }

func TestAStoreThatKeepsNothingFailsItsCheck(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	if err := Scope(m, "mine").Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := Scope(readOnly{m}, "mine").Check(t.Context()); !errors.Is(err, ErrStore) {
		t.Errorf("read only: %v", err)
	}
}
