package doku

import (
	"slices"
	"testing"
)

func TestTheVariablesOfAnAccountAreKnown(t *testing.T) {
	t.Parallel()
	a := &App{Accounts: []*Account{{
		ClientID: "{env.B}", SecretKeys: []string{"{env.A}", "/run/secret"}, PrivateKey: "{env.B}", DOKUPublicKeys: []string{"{file./x}"},
	}}}
	if got := a.variables(); !slices.Equal(got, []string{"A", "B"}) {
		t.Errorf("variables %v", got)
	}
}
