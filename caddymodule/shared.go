package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

// shared is what outlives a reload: stores, so that what they keep is not lost,
// and sessions, so that no token is fetched anew and who waits goes on waiting.
var shared = caddy.NewUsagePool()

// shares are the keys in shared that somebody holds. They must be given back.
type shares struct{ keys []string }

// hold takes a share in what is kept under key, or creates it.
func hold[T caddy.Destructor](s *shares, key string, create func() (T, error)) (T, error) {
	value, _, err := shared.LoadOrNew(key, func() (caddy.Destructor, error) { return create() })
	if err != nil {
		var none T
		return none, err
	}
	s.keys = append(s.keys, key)
	return value.(T), nil
}

// join takes a share in what somebody else keeps under key already.
func (s *shares) join(key string) error {
	_, err := hold(s, key, func() (caddy.Destructor, error) { return nil, errClosed })
	return err
}

var errClosed = errors.New("it is closed already")

// giveBack gives all shares back. What nobody holds any more is destructed.
func (s *shares) giveBack() error {
	var errs []error
	for _, key := range s.keys {
		_, err := shared.Delete(key)
		errs = append(errs, err)
	}
	s.keys = nil
	return errors.Join(errs...)
}

// liveHandler is the log of what outlives a reload: it writes to the log of the
// configuration in use.
type liveHandler struct{ current atomic.Pointer[slog.Logger] }

func (h *liveHandler) handler() slog.Handler {
	if log := h.current.Load(); log != nil {
		return log.Handler()
	}
	return slog.DiscardHandler
}

func (h *liveHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.handler().Enabled(ctx, level)
}

func (h *liveHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

func (h *liveHandler) WithAttrs(attrs []slog.Attr) slog.Handler { return h.handler().WithAttrs(attrs) }

func (h *liveHandler) WithGroup(name string) slog.Handler { return h.handler().WithGroup(name) }
