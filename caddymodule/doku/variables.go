package doku

import (
	"os"
	"regexp"
	"slices"
	"strings"

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
	for _, file := range envFiles(os.Args) {
		content, err := credential.Read(file)
		if err != nil {
			a.log.Warn("the file of variables cannot be read any more", "file", file, "error", err)
			continue
		}
		for _, name := range names {
			if value, known := valueIn(string(content), name); known && value != os.Getenv(name) {
				a.log.Warn("a variable has another value in its file than the one in use, which stays until a restart", "variable", name, "file", file)
			}
		}
	}
}

// envFiles returns the files that the arguments of `caddy run` name.
func envFiles(args []string) (files []string) {
	for i, arg := range args {
		if value, found := strings.CutPrefix(arg, "--envfile="); found {
			files = append(files, strings.Split(value, ",")...)
		} else if arg == "--envfile" && i+1 < len(args) {
			files = append(files, strings.Split(args[i+1], ",")...)
		}
	}
	return files
}

// valueIn returns the value of a variable in an env file as Caddy reads it. A value of
// several lines is not known.
func valueIn(content, name string) (value string, known bool) {
	for line := range strings.Lines(content) {
		key, text, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found || strings.TrimPrefix(key, "export ") != name {
			continue
		}
		if before, _, comment := strings.Cut(text, "#"); comment {
			text = strings.TrimRight(before, " \t")
		}
		known = true
		if quote := text[:min(len(text), 1)]; quote == `"` || quote == "'" {
			known = len(text) > 1 && strings.HasSuffix(text, quote)
			text = strings.Trim(text, quote)
		}
		value = text
	}
	return value, known
}
