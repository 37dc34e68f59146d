package doku

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/pool"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func init() {
	caddy.RegisterModule(MemoryStore{})
	caddy.RegisterModule(RedisStore{})
	store.LogTo(slog.New(storeLog))
}

// storeLog is where the Redis client logs: the log of the configuration in use.
var storeLog = new(telemetry.CurrentLog)

// accessTimeout limits the check at the start, which a Redis that is away must not hold up.
const accessTimeout = 1500 * time.Millisecond

// checkAccess returns an error if Redis refuses the password or the user: the sidecar can
// never work with it. A Redis that does not answer is no error, since it may come back.
func (a *App) checkAccess() error {
	ctx, cancel := context.WithTimeout(context.Background(), accessTimeout)
	defer cancel()
	err := a.Accounts[0].scope.Check(ctx)
	switch {
	case store.NoDatabase(err):
		return fmt.Errorf("store %s: Redis has no database of the number at the end of the URL (16 by default: 0 to 15; "+
			"a cluster has 0 only): %w", a.storeName, err)
	case !store.Denied(err):
		return nil
	}
	return fmt.Errorf("store %s: the user or the password in its URL is wrong, or the user may do too little: %w", a.storeName, err)
}

// Store is what the modules in the namespace `doku.stores` implement: where the
// app `doku` keeps tokens, the ids of calls, and answers.
type Store interface {
	// Open returns the store, which works until the module is cleaned up, and a text
	// that is the same for the same store and for no other. It must not use the
	// network. The store's own methods must end within seconds, because calls wait
	// for them.
	Open() (store.Store, string, error)
}

// MemoryStore keeps everything in the memory of the process. It needs no set-up. Use
// it for a single sidecar. A reload loses nothing; a restart loses everything: the
// sidecar then fetches a new token, and does not recognize the repeat of a call.
type MemoryStore struct{ references pool.References }

// CaddyModule returns the Caddy module information.
func (MemoryStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku.stores.memory", New: func() caddy.Module { return new(MemoryStore) }}
}

type sharedMemory struct{ *store.Memory }

func (s sharedMemory) Destruct() error { return s.Close() }

// Open returns the store of this process.
func (m *MemoryStore) Open() (store.Store, string, error) {
	const id = "store/memory"
	s, err := pool.Acquire(&m.references, id, func() (sharedMemory, error) { return sharedMemory{store.NewMemory()}, nil })
	return s.Memory, id, err
}

// Cleanup releases the store.
func (m *MemoryStore) Cleanup() error { return m.references.Release() }

// RedisStore keeps everything in a Redis server, which all sidecars of a merchant
// share: all use one token, and each recognizes the repeat of a call that another
// one got. What is kept is encrypted with a key derived from the account's
// secret, and everything has a time to live.
//
// While Redis is away, calls to DOKU use the token that the sidecar holds;
// `on_store_error` of the app says what happens to calls that need the store.
type RedisStore struct {
	// Where Redis is: a URL such as `redis://user:password@host:6379/0`,
	// `rediss://…` for TLS, or `unix:///path`. With the parameter `master_name` it
	// names Sentinels, with `addr=host:port`, for each further node, a cluster.
	// Timeouts and the size of the pool are parameters, too, as go-redis reads
	// them: `dial_timeout` (2s), `read_timeout` and `write_timeout` (1s),
	// `max_retries` (1), `dialer_retries` (1), `pool_size`. A Redis that takes
	// longer than 2 s counts as away, whatever their values. Accepts the
	// placeholders `{env.NAME}` and `{file./path}`. Required.
	URL string `json:"url,omitempty"`

	// Whether the URL names a cluster by one of its nodes.
	Cluster bool `json:"cluster,omitempty"`

	// The beginning of all keys. Default: `doku:`.
	Prefix string `json:"prefix,omitempty"`

	references pool.References
}

// CaddyModule returns the Caddy module information.
func (RedisStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku.stores.redis", New: func() caddy.Module { return new(RedisStore) }}
}

type sharedRedis struct{ *store.Redis }

func (s sharedRedis) Destruct() error { return s.Close() }

// Open returns the store. Connections are made when they are needed.
func (r *RedisStore) Open() (store.Store, string, error) {
	url, err := credential.Resolve(caddy.NewReplacer(), "store redis", r.URL)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %v", url, r.Prefix, r.Cluster))
	id := "store/redis/" + hex.EncodeToString(sum[:])
	s, err := pool.Acquire(&r.references, id, func() (sharedRedis, error) {
		opened, err := store.NewRedis(store.RedisConfig{URL: url, Cluster: r.Cluster, Prefix: r.Prefix})
		return sharedRedis{opened}, err
	})
	return s.Redis, id, err
}

// Cleanup releases the store.
func (r *RedisStore) Cleanup() error { return r.references.Release() }

var (
	_ Store              = (*MemoryStore)(nil)
	_ caddy.CleanerUpper = (*MemoryStore)(nil)
	_ Store              = (*RedisStore)(nil)
	_ caddy.CleanerUpper = (*RedisStore)(nil)
)
