// Package caddymodule makes the signer and the verifier usable from Caddy: the
// app "doku" holds the accounts, doku_sign and the transport "doku" sign calls to
// DOKU, doku_token and doku_verify guard the merchant's app against calls that
// are not DOKU's. It is the only package of this module that knows Caddy.
package caddymodule

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/store"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(App{})
}

// App holds the DOKU accounts that the handlers `doku_sign`, `doku_token` and
// `doku_verify` and the transport `doku` work for. Nothing here uses the network
// when the configuration loads; everything that can be checked without it is.
//
// Every text accepts the placeholders `{env.NAME}` and `{file./path}`, resolved
// when the configuration loads. Use them for secrets: what is written out stands
// in the configuration for everybody who may read it.
type App struct {
	// Which DOKU to talk to: `sandbox`, `production`, or a base URL such as
	// `https://api.doku.com`. A base URL must be https unless its host is a
	// loopback address. Required.
	Environment string `json:"environment,omitempty"`

	// The accounts. With a single one, nothing needs to name it.
	Accounts []*Account `json:"accounts,omitempty"`

	base   *url.URL
	dial   string // host and port of base
	ledger *verifier.Ledger
	held   []string // keys of shared that this configuration holds
	log    *slog.Logger
}

// Account is one DOKU client id with its keys.
type Account struct {
	// What the account is called in this configuration. Default: `default`.
	Name string `json:"name,omitempty"`

	// The Client ID, such as `BRN-0211-1696919651918`, from DOKU's dashboard
	// under Integration, API Keys. Required.
	ClientID string `json:"client_id,omitempty"`

	// The Secret Key from the same page, with its `SK-` in front. The first
	// one signs; all of them are accepted, so that a change of secrets needs
	// no pause. White space around it is removed, with a warning. Required.
	SecretKeys []string `json:"secret_keys,omitempty"`

	// The merchant's RSA private key, whose public half was uploaded to the
	// dashboard: the path of a file, or the key itself. PKCS#1, PKCS#8 and
	// encrypted PKCS#8, in PEM, bare base64 or DER; 2048 bits at least. Required.
	PrivateKey string `json:"private_key,omitempty"`

	// The passphrase of an encrypted private key.
	Passphrase string `json:"passphrase,omitempty"`

	// DOKU's RSA public keys, from the dashboard: path of a file or the key
	// itself. Several during a change of keys. Required for `doku_token`.
	DOKUPublicKeys []string `json:"doku_public_keys,omitempty"`

	// The X-CLIENT-KEY with which DOKU asks for a token. Default: the client id.
	InboundClientKey string `json:"inbound_client_key,omitempty"`

	// The X-PARTNER-ID with which DOKU calls. Default: the client id.
	InboundPartnerID string `json:"inbound_partner_id,omitempty"`

	clientID   string
	secrets    []*snap.Secret
	privateKey *rsa.PrivateKey
	dokuKeys   []*rsa.PublicKey
	tokens     *signer.TokenSource
	issuer     *verifier.Issuer
	requests   *verifier.TokenRequest
	calls      *verifier.Verifier
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku", New: func() caddy.Module { return new(App) }}
}

// shared is what outlives a reload: tokens, so that none is fetched anew, and
// the ledger, so that no repeat is taken for a new call.
var shared = caddy.NewUsagePool()

type sharedTokens struct{ *signer.TokenSource }

func (s sharedTokens) Destruct() error {
	s.Close()
	return nil
}

type sharedLedger struct {
	*verifier.Ledger
	memory *store.Memory
}

func (s sharedLedger) Destruct() error {
	s.memory.Close()
	return nil
}

const memoryLedger = "ledger/memory"

// Provision reads keys and secrets and prepares the accounts.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = ctx.Slogger()
	if len(a.Accounts) == 0 {
		return errors.New("doku: no account; write `account { client_id …; secret_key …; private_key … }` in the global option `doku`")
	}
	repl := caddy.NewReplacer()
	environment, err := resolve(repl, "environment", a.Environment)
	if err != nil {
		return fmt.Errorf("doku: %w", err)
	}
	if a.base, err = baseURL(environment); err != nil {
		return fmt.Errorf("doku: environment: %w", err)
	}
	a.dial = dialAddress(a.base)
	ledger, err := hold(a, memoryLedger, func() (sharedLedger, error) {
		memory := store.NewMemory()
		return sharedLedger{verifier.NewLedger(memory), memory}, nil
	})
	if err != nil {
		return err
	}
	a.ledger = ledger.Ledger
	names := make(map[string]bool, len(a.Accounts))
	for _, account := range a.Accounts {
		if account.Name == "" {
			account.Name = "default"
		}
		if names[account.Name] {
			return fmt.Errorf("doku: two accounts are called %q; give each its own name", account.Name)
		}
		names[account.Name] = true
		if err := a.provisionAccount(repl, account); err != nil {
			return fmt.Errorf("doku: account %q: %w", account.Name, err)
		}
	}
	return nil
}

func (a *App) provisionAccount(repl *caddy.Replacer, account *Account) error {
	var err error
	if account.clientID, err = resolve(repl, "client_id", account.ClientID); err != nil {
		return err
	}
	account.clientID = strings.TrimSpace(account.clientID)
	if len(account.SecretKeys) == 0 {
		return errors.New("secret_key is required; it is in DOKU's dashboard under Integration, API Keys")
	}
	for _, text := range account.SecretKeys {
		secret, err := resolve(repl, "secret_key", text)
		if err != nil {
			return err
		}
		trimmed := strings.TrimSpace(strings.TrimPrefix(secret, "\ufeff"))
		if trimmed != secret {
			a.log.Warn("secret_key had white space or a byte order mark around it, which was removed", "account", account.Name)
		}
		account.secrets = append(account.secrets, snap.NewSecret([]byte(trimmed)))
	}
	passphrase := ""
	if account.Passphrase != "" {
		if passphrase, err = resolve(repl, "passphrase", account.Passphrase); err != nil {
			return err
		}
	}
	text, err := keyText(repl, "private_key", account.PrivateKey)
	if err != nil {
		return err
	}
	if account.privateKey, err = signer.ParsePrivateKey(text, []byte(passphrase)); err != nil {
		return fmt.Errorf("private_key: %w", err)
	}
	for _, value := range account.DOKUPublicKeys {
		if text, err = keyText(repl, "doku_public_key", value); err != nil {
			return err
		}
		key, err := signer.ParsePublicKey(text)
		if err != nil {
			return fmt.Errorf("doku_public_key: %w", err)
		}
		if key.Equal(account.privateKey.Public()) {
			return errors.New("doku_public_key is the public half of the merchant's own private_key; expected DOKU's key from the dashboard")
		}
		account.dokuKeys = append(account.dokuKeys, key)
	}
	return a.connect(repl, account)
}

// connect makes the signing and verifying parts of an account whose keys are loaded.
func (a *App) connect(repl *caddy.Replacer, account *Account) error {
	clientKey, partnerID := account.clientID, account.clientID
	for _, override := range []struct {
		name, value string
		into        *string
	}{
		{"inbound_client_key", account.InboundClientKey, &clientKey},
		{"inbound_partner_id", account.InboundPartnerID, &partnerID},
	} {
		if override.value == "" {
			continue
		}
		value, err := resolve(repl, override.name, override.value)
		if err != nil {
			return err
		}
		*override.into = value
	}
	id := sha256.Sum256([]byte(a.base.String() + "\x00" + account.clientID + "\x00" + signer.Fingerprint(&account.privateKey.PublicKey)))
	tokens, err := hold(a, "tokens/"+hex.EncodeToString(id[:]), func() (sharedTokens, error) {
		source, err := signer.NewTokenSource(signer.TokenConfig{
			BaseURL:  a.base.String(),
			ClientID: account.clientID,
			Key:      account.privateKey,
			Logger:   slog.New(a.log.Handler()),
		})
		return sharedTokens{source}, err
	})
	if err != nil {
		return err
	}
	account.tokens = tokens.TokenSource
	if account.issuer, err = verifier.NewIssuer(account.clientID, account.secrets, time.Now); err != nil {
		return err
	}
	account.requests = &verifier.TokenRequest{ClientKey: clientKey, Keys: account.dokuKeys, Window: verifier.DefaultWindow}
	account.calls = &verifier.Verifier{PartnerID: partnerID, Secrets: account.secrets, Tokens: account.issuer, Window: verifier.DefaultWindow}
	a.log.Info("account ready", "account", account.Name, "client_id", account.clientID, "base_url", a.base.String(),
		"merchant_key", signer.Fingerprint(&account.privateKey.PublicKey), "doku_keys", fingerprints(account.dokuKeys))
	return nil
}

func fingerprints(keys []*rsa.PublicKey) []string {
	all := make([]string, len(keys))
	for i, key := range keys {
		all[i] = signer.Fingerprint(key)
	}
	return all
}

// hold takes a share in what is kept under key across reloads, and notes that
// it must be given back by Cleanup.
func hold[T caddy.Destructor](a *App, key string, create func() (T, error)) (T, error) {
	value, _, err := shared.LoadOrNew(key, func() (caddy.Destructor, error) { return create() })
	if err != nil {
		var none T
		return none, err
	}
	a.held = append(a.held, key)
	return value.(T), nil
}

// Start has nothing to do: tokens are fetched when first needed.
func (a *App) Start() error { return nil }

// Stop has nothing to do: see Cleanup.
func (a *App) Stop() error { return nil }

// Cleanup gives back what this configuration shares with the next one.
func (a *App) Cleanup() error {
	var errs []error
	for _, key := range a.held {
		_, err := shared.Delete(key)
		errs = append(errs, err)
	}
	a.held = nil
	return errors.Join(errs...)
}

// account returns the account called name, or the only one if name is empty.
func (a *App) account(name string) (*Account, error) {
	if name == "" {
		if len(a.Accounts) == 1 {
			return a.Accounts[0], nil
		}
		return nil, fmt.Errorf("there are %d accounts; write `account <name>` to say which one", len(a.Accounts))
	}
	names := make([]string, len(a.Accounts))
	for i, account := range a.Accounts {
		if account.Name == name {
			return account, nil
		}
		names[i] = account.Name
	}
	return nil, fmt.Errorf("no account is called %q; the accounts are: %s", name, strings.Join(names, ", "))
}

// dialAddress returns host and port of a base URL.
func dialAddress(base *url.URL) string {
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	return net.JoinHostPort(base.Hostname(), port)
}

// loadApp returns the app and the account called name, for a handler's Provision.
func loadApp(ctx caddy.Context, name string) (*App, *Account, error) {
	app, err := findApp(ctx)
	if err != nil {
		return nil, nil, err
	}
	account, err := app.account(name)
	return app, account, err
}

// findApp returns the app.
func findApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.AppIfConfigured("doku")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return nil, errors.New("the global option `doku { … }` with an account is needed")
	case err != nil:
		return nil, err
	}
	return app.(*App), nil
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

const (
	keyFileLargest = 64 << 10
	pathLongest    = 512
)

// keyText returns a key given as the path of a file or as itself.
func keyText(repl *caddy.Replacer, name, value string) ([]byte, error) {
	resolved, err := resolve(repl, name, value)
	if err != nil {
		return nil, err
	}
	if strings.Contains(resolved, "-----BEGIN") || len(resolved) > pathLongest {
		return []byte(resolved), nil
	}
	f, err := os.Open(resolved)
	if err != nil {
		// Not %w of err alone: a key given as text must not be repeated in a log.
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("%s: reading the file that %q names: %w", name, value, err)
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	text, err := io.ReadAll(io.LimitReader(f, keyFileLargest+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > keyFileLargest {
		return nil, fmt.Errorf("%s: the file that %q names has more than %d bytes; expected a key", name, value, keyFileLargest)
	}
	return text, nil
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
