package doku

import (
	"os"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
)

// variables returns the names of the variables that the accounts' settings name.
func (a *App) variables() []string {
	var settings []string
	for _, account := range a.Accounts {
		settings = append(settings, account.ClientID, account.PrivateKey, account.Passphrase)
		settings = append(append(settings, account.SecretKeys...), account.DOKUPublicKeys...)
	}
	return credential.VariablesIn(settings)
}

// warnOfVariables says at a reload that variables stay as they were when the process
// started, as those of every process do.
func (a *App) warnOfVariables() {
	if used, err := Find(caddy.ActiveContext()); err != nil || used == a {
		return
	}
	if names := a.variables(); len(names) > 0 {
		credential.WarnOfVariables(a.log, os.Args, names)
	}
}
