package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
)

// Account is one DOKU client id with its keys.
//
// Files that are named by a path, or by a placeholder `{file./path}` and nothing
// else, are watched: a new key or secret is taken up within seconds, without a
// reload, and logged by its fingerprint. A new file that is of no use changes
// nothing but for an error in the log and the counter
// `caddy_doku_credential_loads_total`.
type Account struct {
	// What the account is called in this configuration. Default: `default`.
	Name string `json:"name,omitempty"`

	// The account's environment, if it is not that of the app.
	Environment string `json:"environment,omitempty"`

	// The Client ID, such as `BRN-0211-1696919651918`, from DOKU's dashboard
	// under Integration, API Keys. Required.
	ClientID string `json:"client_id,omitempty"`

	// The Secret Key from the same page, with its `SK-` in front, or the path of a
	// file that holds it. The first one signs and encrypts; all of them are
	// accepted, so that a change of secrets needs no pause: first `OLD NEW` in all
	// sidecars, then `NEW OLD`, at last `NEW`. White space around it is removed,
	// with a warning. Required.
	SecretKeys []string `json:"secret_keys,omitempty"`

	// The merchant's RSA private key, whose public half was uploaded to the
	// dashboard: the path of a file, or the key itself. PKCS#1, PKCS#8 and
	// encrypted PKCS#8, in PEM, bare base64 or DER; 2048 bits at least. Required.
	PrivateKey string `json:"private_key,omitempty"`

	// The passphrase of an encrypted private key, or the path of a file that
	// holds it.
	Passphrase string `json:"passphrase,omitempty"`

	// DOKU's RSA public keys, from the dashboard: path of a file or the key
	// itself. Several during a change of keys. Required for `doku_token`.
	DOKUPublicKeys []string `json:"doku_public_keys,omitempty"`

	// The X-CLIENT-KEY with which DOKU asks for a token. Default: the client id.
	InboundClientKey string `json:"inbound_client_key,omitempty"`

	// The X-PARTNER-ID with which DOKU calls. Default: the client id.
	InboundPartnerID string `json:"inbound_partner_id,omitempty"`

	// The partner service ids (BIN) of the merchant's virtual accounts, without the
	// spaces in front. Required for `signature asymmetric` of `doku_verify`.
	PartnerServiceIDs []string `json:"partner_service_ids,omitempty"`

	clientID  string
	clientKey string // DOKU's X-CLIENT-KEY
	partnerID string // DOKU's X-PARTNER-ID
	services  []string
	base      *url.URL
	dial      string // host and port of base
	*session

	// What is kept in the store is the same for all configurations, but each has
	// its own way to it: one that is in use must not be changed by another one that
	// is about to take its place, or has failed to.
	scope   *store.Scoped
	sealed  bool
	repeats *idempotency.Repeats
	ledger  *ledger.Ledger
	stories *stories

	inUse atomic.Pointer[credentials]
	tried map[string][sha256.Size]byte // the files of the last reload, by path

	unloaded atomic.Pointer[error] // why the last reload was of no use, if it was not
	checks   []*check
}

// session is what an account keeps across reloads.
type session struct {
	tokens *tokens.TokenSource
	clock  *tokens.Clock
	shared *store.Scoped // where sidecars share the token, or nil
	log    *liveHandler
	name   atomic.Pointer[string] // of the account that it works for
	held   shares

	provider seenProvider
	fetch    atomic.Pointer[fetchTrace] // the last one

	mu    sync.Mutex
	users []user // that have started and not stopped, in this order
}

// user is an account of a configuration that works with a session.
type user struct {
	account *Account
	app     *App
}

// enter has the session work for an account that starts.
func (s *session) enter(a *Account, app *App) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = append(s.users, user{a, app})
	return s.settle()
}

// leave has the session work without an account that stops, if it has started.
func (s *session) leave(a *Account) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = slices.DeleteFunc(s.users, func(u user) bool { return u.account == a })
	return s.settle()
}

// renew has the session work with the credentials that its user has now.
func (s *session) renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settle()
}

// settle has the session work as its latest user says, while mu is held. If a
// configuration cannot be started as a whole, that is the one before it again.
func (s *session) settle() error {
	if len(s.users) == 0 {
		return nil
	}
	latest := s.users[len(s.users)-1]
	s.log.current.Store(latest.app.log)
	s.name.Store(&latest.account.Name)
	s.clock.SetCorrect(latest.app.ClockCorrection)
	c := latest.account.credentials()
	s.tokens.SetKey(c.privateKey)
	if s.shared == nil {
		return nil
	}
	return s.shared.SetSecrets(c.secretBytes()...)
}

func (s *session) Destruct() error {
	s.tokens.Close()
	return s.held.giveBack()
}

// credentials returns those in use.
func (a *Account) credentials() *credentials { return a.inUse.Load() }

// provision resolves and checks the settings, reads the credentials, and joins or
// begins the session.
func (a *Account) provision(app *App) error {
	repl := caddy.NewReplacer()
	environment := a.Environment
	if environment == "" {
		environment = app.Environment
	}
	if environment == "" {
		return errors.New("environment is required: write `environment sandbox` or `environment production` in the global option `doku`")
	}
	environment, err := resolve(repl, "environment", environment)
	if err != nil {
		return err
	}
	if a.base, err = baseURL(environment); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	a.dial = dialAddress(a.base)
	if a.clientID, err = resolve(repl, "client_id", a.ClientID); err != nil {
		return err
	}
	a.clientID = strings.TrimSpace(a.clientID)
	if err := checkClientID(a.clientID); err != nil {
		return err
	}
	a.clientKey, a.partnerID = a.clientID, a.clientID
	for _, override := range []struct {
		name, value string
		into        *string
	}{
		{"inbound_client_key", a.InboundClientKey, &a.clientKey},
		{"inbound_partner_id", a.InboundPartnerID, &a.partnerID},
	} {
		if override.value == "" {
			continue
		}
		if *override.into, err = resolve(repl, override.name, override.value); err != nil {
			return err
		}
	}
	if err := a.resolveServices(repl); err != nil {
		return err
	}
	c, err := a.load(app.log)
	if err != nil {
		return err
	}
	a.inUse.Store(c)
	// Sidecars that share a store may call their accounts by different names.
	a.scope = store.Scope(app.store, a.clientID+"@"+a.base.Host)
	if _, own := app.store.(*store.Memory); !own {
		a.sealed = true
		if err := a.scope.SetSecrets(c.secretBytes()...); err != nil {
			return err
		}
	}
	kept := countingStore{a.scope}
	a.repeats = idempotency.NewRepeats(kept, ledger.DefaultLease)
	a.ledger = ledger.NewLedger(kept, ledger.DefaultLease)
	a.stories = newStories(kept, time.Now)
	a.ledger.Lenient = app.OnStoreError == storeErrorContinue
	if err := a.join(app, c); err != nil {
		return err
	}
	a.addOwnChecks()
	return nil
}

var clientIDForm = regexp.MustCompile(`^[[:graph:]]+$`)

// checkClientID returns an error for what cannot be a client id. A secret key in its
// place is not repeated: a client id is shown and sent.
func checkClientID(id string) error {
	switch {
	case strings.HasPrefix(strings.TrimLeft(id, quotes), "SK-"):
		return errors.New("client_id begins with SK-, as DOKU's secret keys do: are client_id and secret_key swapped?")
	case !clientIDForm.MatchString(id) || strings.ContainsAny(id, quotes+"$"):
		return fmt.Errorf("client_id: expected one such as BRN-0211-1696919651918, without quotes, found %q; a variable is written as {env.NAME}", id)
	}
	return nil
}

var serviceID = regexp.MustCompile(`^[0-9]{1,8}$`)

func (a *Account) resolveServices(repl *caddy.Replacer) error {
	for _, value := range a.PartnerServiceIDs {
		id, err := resolve(repl, "partner_service_id", value)
		if err != nil {
			return err
		}
		if id = strings.TrimSpace(id); !serviceID.MatchString(id) {
			return fmt.Errorf("partner_service_id: expected 1 to 8 digits such as 8808, found %q", id)
		}
		a.services = append(a.services, id)
	}
	return nil
}

// join takes a share in the session of this client id, key and store, or begins it.
func (a *Account) join(app *App, c *credentials) error {
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", app.storeID, a.base.String(), a.clientID, signer.Fingerprint(&c.privateKey.PublicKey)))
	var err error
	a.session, err = hold(&app.held, "session/"+hex.EncodeToString(key[:]), func() (*session, error) { return a.begin(app, c) })
	return err
}

// begin makes a session.
func (a *Account) begin(app *App, c *credentials) (_ *session, err error) {
	s := &session{log: new(liveHandler)}
	s.name.Store(&a.Name)
	defer func() {
		if err != nil {
			_ = s.held.giveBack() // the error at hand says more
		}
	}()
	// The session may outlive the configuration that has opened the store.
	if err = s.held.join(app.storeID); err != nil {
		return nil, err
	}
	log := slog.New(s.log)
	s.clock = &tokens.Clock{Now: time.Now, Logger: log}
	var sharedWith store.Store
	if a.sealed {
		s.shared = store.Scope(app.store, a.clientID+"@"+a.base.Host)
		if err = s.shared.SetSecrets(c.secretBytes()...); err != nil {
			return nil, err
		}
		sharedWith = countingStore{s.shared}
	}
	s.tokens, err = tokens.NewTokenSource(tokens.TokenConfig{
		BaseURL:   a.base.String(),
		ClientID:  a.clientID,
		Key:       c.privateKey,
		Store:     sharedWith,
		Transport: tracedTransport{http.DefaultTransport.(*http.Transport)},
		Clock:     s.clock,
		Logger:    log,
		Around:    s.aroundFetch,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// use makes c the credentials in use.
func (a *Account) use(c *credentials) error {
	if a.sealed {
		if err := a.scope.SetSecrets(c.secretBytes()...); err != nil {
			return err
		}
	}
	a.inUse.Store(c)
	return a.renew()
}

// start has the session work for this configuration from now on, until stop.
func (a *Account) start(app *App) error {
	countFromZero(a.Name)
	if err := a.enter(a, app); err != nil {
		return err
	}
	a.tell(app.log, "account ready")
	return nil
}

// stop may be called again, and without start.
func (a *Account) stop() error {
	if a.session == nil { // not provisioned
		return nil
	}
	return a.leave(a)
}

// tell logs which keys are in use.
func (a *Account) tell(log *slog.Logger, message string) {
	c := a.credentials()
	log.Info(message, "account", a.Name, "client_id", a.clientID, "base_url", a.base.String(), //nolint:sloglint // the message is one of two
		"merchant_key", signer.Fingerprint(&c.privateKey.PublicKey), "doku_keys", fingerprints(c), "secrets", len(c.secrets))
}

func fingerprints(c *credentials) []string {
	all := make([]string, len(c.dokuKeys))
	for i, key := range c.dokuKeys {
		all[i] = signer.Fingerprint(key)
	}
	return all
}

// reload takes up files that have changed, unless ctx has ended by the time they
// are read. What is of no use is said once.
func (a *Account) reload(ctx context.Context, log *slog.Logger) {
	files := a.credentials().look()
	if maps.Equal(files, a.credentials().files) || maps.Equal(files, a.tried) {
		return
	}
	a.tried = files
	c, err := a.load(log)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = a.use(c)
	}
	if err != nil {
		a.unloaded.Store(&err)
		credentialLoads.WithLabelValues(a.Name, "failed").Inc()
		log.Error("a changed file of the account is of no use; the keys and secrets in use stay", "account", a.Name, "error", err)
		return
	}
	a.unloaded.Store(nil)
	credentialLoads.WithLabelValues(a.Name, "loaded").Inc()
	a.tell(log, "took up changed keys or secrets")
}

// chooser finds the account that a call is for.
type chooser struct {
	app    *App
	fixed  *Account
	value  string                // a text with placeholders for the name, or ""
	header string                // otherwise, the header that has the id
	id     func(*Account) string // the id of an account
}

// choose returns the chooser for a handler's setting, which may be empty: then it
// is the only account, or the one whose id is in header.
func (a *App) choose(setting, header string, id func(*Account) string) (*chooser, error) {
	c := &chooser{app: a, header: header, id: id}
	switch {
	case strings.Contains(setting, "{"):
		c.value = setting
	case setting == "" && len(a.Accounts) > 1:
		seen := make(map[string]string, len(a.Accounts))
		for _, account := range a.Accounts {
			if other := seen[id(account)]; other != "" {
				return nil, fmt.Errorf("accounts %q and %q have the same %s, so calls cannot be told apart by it; write `account <name>`", other, account.Name, header)
			}
			seen[id(account)] = account.Name
		}
	default:
		var err error
		if c.fixed, err = a.account(setting); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// candidates returns the accounts that a request can be for.
func (c *chooser) candidates() []*Account {
	if c.fixed != nil {
		return []*Account{c.fixed}
	}
	return c.app.Accounts
}

// needDOKUKeys returns an error if an account has no key of DOKU's, which a setting
// cannot do without.
func (c *chooser) needDOKUKeys(setting string) error {
	for _, account := range c.candidates() {
		if len(account.credentials().dokuKeys) == 0 {
			return fmt.Errorf("%s needs the doku_public_key of account %q; it is in DOKU's dashboard under Integration, API Keys", setting, account.Name)
		}
	}
	return nil
}

// needServices returns an error if an account has no partner service id, which the
// asymmetric signature cannot do without.
func (c *chooser) needServices() error {
	for _, account := range c.candidates() {
		if len(account.services) == 0 {
			return fmt.Errorf("signature asymmetric needs the partner_service_id of account %q: DOKU may sign for all merchants with one key, and only the id in the body tells whose call it is", account.Name)
		}
	}
	return nil
}

var errNoAccount = errors.New("no such account")

// account returns the account of a request. It never falls back to another one.
func (c *chooser) account(r *http.Request) (*Account, error) {
	if c.fixed != nil {
		return c.fixed, nil
	}
	if c.value != "" {
		name := ""
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			name = repl.ReplaceAll(c.value, "")
		}
		if account := c.app.named(name); account != nil {
			return account, nil
		}
		return nil, fmt.Errorf("%w: %s is %.60q", errNoAccount, c.value, name)
	}
	if values := r.Header.Values(c.header); len(values) == 1 {
		for _, account := range c.app.Accounts {
			if c.id(account) == values[0] {
				return account, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: by the header %s, which is %.60q", errNoAccount, c.header, strings.Join(r.Header.Values(c.header), ", "))
}

// baseURLs of DOKU's environments.
var baseURLs = map[string]string{
	"sandbox":    "https://api-sandbox.doku.com",
	"production": "https://api.doku.com",
}

func baseURL(environment string) (*url.URL, error) {
	if known := baseURLs[environment]; known != "" {
		environment = known
	}
	u, err := url.Parse(environment)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("expected sandbox, production or a base URL such as https://api.doku.com, found %q", environment)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("expected a base URL without user, path and query, found %q", u.Redacted())
	}
	u.Path = ""
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%q is not encrypted; expected https (http is only for a loopback address)", u)
	}
	return u, nil
}

// dialAddress returns host and port of a base URL.
func dialAddress(base *url.URL) string {
	return net.JoinHostPort(base.Hostname(), portOf(base))
}

// portOf returns the port of a URL, the scheme's unless it names one.
func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// resolve replaces the placeholders in a setting; an unknown or empty one is an error.
func resolve(repl *caddy.Replacer, name, value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("%s is required", name)
	}
	resolved, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w (is the variable set, the file there?)", name, err)
	}
	return resolved, nil
}
