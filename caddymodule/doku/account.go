package doku

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/environment"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

// Account is one DOKU client id with its keys.
//
// Files that are named by a path, or by a placeholder `{file./path}` and nothing
// else, are watched: the sidecar uses a new key or secret within seconds, without a
// reload, and logs its fingerprint. If a new file cannot be used, the keys and
// secrets in use stay; the log has an error, and the counter
// `caddy_doku_credential_loads_total` counts it.
type Account struct {
	// The account's name in this configuration. Default: `default`.
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
	// encrypted PKCS#8, in PEM, base64 (bare, or of a whole PEM) or DER; 2048 bits at
	// least. Required.
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
	runtime   *runtime

	// All configurations keep the same things in the store, but each has its own scope:
	// a configuration that is about to start, or has failed to, must not change the
	// secrets of the one in use.
	scope       *store.Scoped
	sealed      bool
	idempotency *idempotency.Record
	ledger      *ledger.Ledger
	links       *telemetry.Links

	inUse      atomic.Pointer[Credentials]
	tried      map[string][sha256.Size]byte // the files of the last reload, by path
	loadFailed atomic.Pointer[error]        // of the last reload; nil if it succeeded
	checks     []*check
}

// Credentials returns the credentials in use.
func (a *Account) Credentials() *Credentials { return a.inUse.Load() }

// ID returns the client id.
func (a *Account) ID() string { return a.clientID }

// ClientKey returns DOKU's X-CLIENT-KEY.
func (a *Account) ClientKey() string { return a.clientKey }

// PartnerID returns DOKU's X-PARTNER-ID.
func (a *Account) PartnerID() string { return a.partnerID }

// BaseURL returns the URL of the account's environment. It must not be changed.
func (a *Account) BaseURL() *url.URL { return a.base }

// Clock returns DOKU's clock as seen from here.
func (a *Account) Clock() *tokens.Clock { return a.runtime.clock }

// Tokens returns the source of the account's B2B token. A call that may have to wait
// for a token uses [Account.Token] instead.
func (a *Account) Tokens() *tokens.Source { return a.runtime.tokens }

// Token returns the B2B token. Waiting for one is a span of its own.
func (a *Account) Token(ctx context.Context) (tokens.Token, error) { return a.runtime.token(ctx) }

// Idempotency returns the record of the app's idempotency keys.
func (a *Account) Idempotency() *idempotency.Record { return a.idempotency }

// Ledger returns the record of inbound calls that the app has accepted.
func (a *Account) Ledger() *ledger.Ledger { return a.ledger }

// Links returns the traces of the account's virtual accounts.
func (a *Account) Links() *telemetry.Links { return a.links }

// Provider returns the provider for spans that no request begins.
func (a *Account) Provider() *telemetry.LastProvider { return &a.runtime.provider }

// setName gives an account without a name the default one.
func (a *Account) setName() {
	if a.Name == "" {
		a.Name = "default"
	}
}

// resolve resolves and checks the settings, and reads the credentials. Its error has all
// that is wrong.
func (a *Account) resolve(app *App) error {
	repl := caddy.NewReplacer()
	var wrong credential.Faults
	wrong.Add(a.resolveEnvironment(repl, app.Environment))
	odd, err := resolveID(repl, "client_id", a.ClientID, &a.clientID)
	wrong.Add(err)
	if odd != "" {
		app.log.Warn("a client id is unusual; if DOKU answers 401, compare it with the dashboard", "account", a.Name, "found", odd)
	}
	a.clientKey, a.partnerID = a.clientID, a.clientID
	if a.InboundClientKey != "" {
		_, err := resolveID(repl, "inbound_client_key", a.InboundClientKey, &a.clientKey)
		wrong.Add(err)
	}
	if a.InboundPartnerID != "" {
		_, err := resolveID(repl, "inbound_partner_id", a.InboundPartnerID, &a.partnerID)
		wrong.Add(err)
	}
	wrong.Add(a.resolveServices(repl))
	c, err := a.read(app.log)
	if wrong.Add(err); len(wrong) > 0 {
		return wrong // of a wrong client id, the signer would only say the same once more
	}
	if c, err = a.prepare(c); err != nil {
		return err
	}
	a.inUse.Store(c)
	return nil
}

// provision acquires what the resolved account shares with other configurations.
func (a *Account) provision(app *App) error {
	c := a.Credentials()
	// Sidecars that share a store may call their accounts by different names.
	a.scope = store.Scope(app.store, a.clientID+"@"+a.base.Host)
	if _, own := app.store.(*store.Memory); !own {
		a.sealed = true
		if err := a.scope.SetSecrets(c.secretBytes()...); err != nil {
			return err
		}
	}
	counted := countingStore{a.scope}
	a.idempotency = idempotency.New(counted, ledger.DefaultLease)
	a.ledger = ledger.NewLedger(counted, ledger.DefaultLease)
	a.links = telemetry.NewLinks(counted, time.Now)
	a.ledger.Lenient = app.Lenient()
	if err := a.acquireRuntime(app, c); err != nil {
		return err
	}
	a.addOwnChecks()
	return nil
}

func (a *Account) resolveEnvironment(repl *caddy.Replacer, fallback string) error {
	text := cmp.Or(a.Environment, fallback)
	if text == "" {
		return errors.New("environment is required: write `environment sandbox` or `environment production` in the global option `doku`")
	}
	text, err := credential.Resolve(repl, "environment", text)
	if err != nil {
		return err
	}
	if a.base, err = environment.URL(text); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	return nil
}

// resolveID reads an id. Odd says what is unusual about it.
func resolveID(repl *caddy.Replacer, name, value string, into *string) (odd string, err error) {
	resolved, err := credential.Resolve(repl, name, value)
	if err != nil {
		return "", err
	}
	id := credential.Trim(resolved)
	if odd, err = credential.CheckID(id); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	*into = id
	return odd, nil
}

var serviceID = regexp.MustCompile(`^[0-9]{1,8}$`)

func (a *Account) resolveServices(repl *caddy.Replacer) error {
	for _, value := range a.PartnerServiceIDs {
		id, err := credential.Resolve(repl, "partner_service_id", value)
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

// use makes c the credentials in use.
func (a *Account) use(c *Credentials) error {
	if a.sealed {
		if err := a.scope.SetSecrets(c.secretBytes()...); err != nil {
			return err
		}
	}
	a.inUse.Store(c)
	return a.runtime.renew()
}

// start makes the runtime work for this configuration, until stop.
func (a *Account) start(app *App) error {
	countFromZero(a.Name)
	if err := a.runtime.enter(a, app); err != nil {
		return err
	}
	a.logKeys(app.log, "account ready")
	return nil
}

// stop undoes start. It may be called twice, and without start.
func (a *Account) stop() error {
	if a.runtime == nil { // not provisioned
		return nil
	}
	return a.runtime.leave(a)
}

// logKeys logs which keys are in use.
func (a *Account) logKeys(log *slog.Logger, message string) {
	keys := a.Credentials().Summary()
	log.Info(message, "account", a.Name, "client_id", a.clientID, "base_url", a.base.String(), //nolint:sloglint // the message is one of two
		"merchant_key", keys.Merchant, "doku_keys", keys.DOKU, "secrets", keys.Secrets)
}

// reload loads changed files, unless ctx ends before they are read. A file that cannot
// be used is logged once.
func (a *Account) reload(ctx context.Context, log *slog.Logger) {
	files := a.Credentials().currentFiles()
	switch {
	case maps.Equal(files, a.Credentials().files):
		if a.tried = nil; a.loadFailed.Swap(nil) != nil {
			log.Info("the files of keys and secrets are again as they were", "account", a.Name)
		}
		return
	case maps.Equal(files, a.tried):
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
		a.loadFailed.Store(&err)
		telemetry.CredentialLoads.WithLabelValues(a.Name, "failed").Inc()
		log.Error("a changed file of the account is of no use; the keys and secrets in use stay", "account", a.Name, "error", err)
		return
	}
	a.loadFailed.Store(nil)
	telemetry.CredentialLoads.WithLabelValues(a.Name, "loaded").Inc()
	a.logKeys(log, "took up changed keys or secrets")
}
