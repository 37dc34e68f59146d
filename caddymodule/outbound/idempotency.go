package outbound

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// applyKey looks up the app's idempotency key, if there is one.
func (s *Sign) applyKey(ctx context.Context, c *call, r *http.Request) error {
	if s.IdempotencyHeader == "off" {
		return nil
	}
	values := r.Header.Values(s.IdempotencyHeader)
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 || !idempotency.ValidKey(values[0]) {
		return reject(reasons.IdempotencyKey, s.IdempotencyHeader+" [expected 1 to 255 visible ASCII characters, once]",
			errors.New("the app's idempotency key is not 1 to 255 visible ASCII characters, once"))
	}
	lookup, span := telemetry.StartSpan(ctx, "doku.repeat")
	again, err := c.account.Idempotency().Begin(lookup, idempotency.Request{
		Key:          values[0],
		Digest:       idempotency.CallDigest(r.Method, snap.RequestTarget(r.URL.RequestURI()), c.digest),
		ExternalID:   c.externalID,
		CallerChosen: c.ownID,
	})
	span.End()
	switch {
	case err == nil && again.Answer != nil:
		c.keyed, c.externalID = again, again.Answer.Header.Get(httpio.HeaderExternalID)
		return nil
	case err == nil:
		c.keyed, c.externalID, c.maybeSent = again, again.ExternalID, again.MaybeSent
		return nil
	case errors.Is(err, idempotency.ErrKeyReused):
		return reject(reasons.IdempotencyKeyReused, "["+s.IdempotencyHeader+" was used for another call before; nothing was sent]", err)
	case errors.Is(err, store.ErrInFlight):
		return reject(reasons.InFlight, "[outcome: unknown; a call with the same "+s.IdempotencyHeader+" is still under way]", err)
	case s.app.Lenient() && ctx.Err() == nil:
		c.externalID, c.maybeSent = again.ExternalID, again.MaybeSent
		s.log.LogAttrs(ctx, slog.LevelWarn, "the store is away: a call is made without protection against repeats",
			slog.String("account", c.name()), slog.String("external_id", c.externalID), slog.String("error", err.Error()))
		return nil
	}
	return reject(
		reasons.Store,
		"[outcome: unknown; the store is away, so nothing was sent now, but DOKU may have carried out an earlier attempt with this "+
			s.IdempotencyHeader+": ask for its status, or repeat with the same "+s.IdempotencyHeader+"]",
		err,
	)
}
