package doku

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Selector finds the account of a request. It is safe for concurrent use.
type Selector struct {
	app    *App
	fixed  *Account
	value  string                // a text with placeholders for the name, or ""
	header string                // otherwise, the header that has the id
	id     func(*Account) string // the id of an account
}

// Select returns the selector for a handler's setting: a name, or a text with
// placeholders. If it is empty, the account is the only one, or the one whose id is in
// header.
func (a *App) Select(setting, header string, id func(*Account) string) (*Selector, error) {
	s := &Selector{app: a, header: header, id: id}
	switch {
	case strings.Contains(setting, "{"):
		s.value = setting
	case setting == "" && len(a.Accounts) > 1:
		seen := make(map[string]*Account, len(a.Accounts))
		for _, account := range a.Accounts {
			if other := seen[id(account)]; other != nil {
				return nil, fmt.Errorf(
					"accounts %q and %q have the same %s %q, so the header %s does not tell their calls apart; write `account <name>`", other.Name,
					account.Name, settingOf(other, account, header), id(account), header)
			}
			seen[id(account)] = account
		}
	default:
		var err error
		if s.fixed, err = a.Account(setting); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// settingOf returns the setting that gives two accounts the same id in a header.
func settingOf(one, other *Account, header string) string {
	switch {
	case one.clientID == other.clientID:
		return "client_id"
	case strings.EqualFold(header, "X-CLIENT-KEY"):
		return "inbound_client_key"
	}
	return "inbound_partner_id"
}

// candidates returns the accounts that a request can be for.
func (s *Selector) candidates() []*Account {
	if s.fixed != nil {
		return []*Account{s.fixed}
	}
	return s.app.Accounts
}

// Any returns a possible account, to check the call of a stranger with: it must not differ
// from that of somebody who knows an account.
func (s *Selector) Any() *Account { return s.candidates()[0] }

// NeedDOKUKeys returns an error if a possible account has no DOKU public key, which
// setting requires.
func (s *Selector) NeedDOKUKeys(setting string) error {
	for _, account := range s.candidates() {
		if len(account.Credentials().dokuKeys) == 0 {
			return fmt.Errorf("%s needs the doku_public_key of account %q; it is in DOKU's dashboard under Integration, API Keys", setting,
				account.Name)
		}
	}
	return nil
}

// NeedPartnerServices returns an error if a possible account has no partner service id,
// which the asymmetric signature requires.
func (s *Selector) NeedPartnerServices() error {
	for _, account := range s.candidates() {
		if len(account.services) == 0 {
			return fmt.Errorf(
				"signature asymmetric needs the partner_service_id of account %q: DOKU may sign for all merchants with one key, and only the id in the body tells whose call it is",
				account.Name,
			)
		}
	}
	return nil
}

var errNoAccount = errors.New("no such account")

// Account returns the account of a request. It never falls back to another one.
func (s *Selector) Account(r *http.Request) (*Account, error) {
	if s.fixed != nil {
		return s.fixed, nil
	}
	if s.value != "" {
		name := ""
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			name = repl.ReplaceAll(s.value, "")
		}
		if account := s.app.named(name); account != nil {
			return account, nil
		}
		return nil, fmt.Errorf("%w: %s is %.60q", errNoAccount, s.value, name)
	}
	if values := r.Header.Values(s.header); len(values) == 1 {
		for _, account := range s.app.Accounts {
			if s.id(account) == values[0] {
				return account, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: by the header %s, which is %.60q", errNoAccount, s.header, strings.Join(r.Header.Values(s.header), ", "))
}
