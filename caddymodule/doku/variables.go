package doku

import (
	"os"
	"regexp"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
)

var variablePlaceholder = regexp.MustCompile(`\{env\.([^{}]+)\}`)

// variables returns the names of the variables that the accounts' settings name.
func (a *App) variables() (names []string) {
	for _, account := range a.Accounts {
		settings := append([]string{account.ClientID, account.PrivateKey, account.Passphrase}, account.SecretKeys...)
		for _, setting := range append(settings, account.DOKUPublicKeys...) {
			for _, found := range variablePlaceholder.FindAllStringSubmatch(setting, -1) {
				names = append(names, found[1])
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// warnOfVariables says at a reload that variables stay as they were when the process
// started, as those of every process do. Whether one has been changed elsewhere can be
// known only of a file that `run --envfile` has named.
func (a *App) warnOfVariables() {
	if used, err := Find(caddy.ActiveContext()); err != nil || used == a {
		return
	}
	names := a.variables()
	if len(names) == 0 {
		return
	}
	a.log.Info("a reload does not read variables anew: their values are those of the start; a changed variable needs a restart, "+
		"a changed file does not", "variables", names)
	for _, file := range credential.EnvFiles(os.Args) {
		content, err := credential.Read(file)
		if err != nil {
			a.log.Warn("the file of variables cannot be read any more", "file", file, "error", err)
			continue
		}
		for _, name := range names {
			if value, known := credential.ValueIn(string(content), name); known && value != os.Getenv(name) {
				a.log.Warn("a variable has another value in its file than the one in use, which stays until a restart", "variable", name, "file", file)
			}
		}
	}
}
