package callstore

import (
	"context"
	"math"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callredis"
)

const (
	adoptEvery = time.Second      // between two looks at an old inbox, which old sidecars may still fill
	adoptLease = 10 * time.Second // of an ordering key in it
)

// adopt moves the calls of our accounts out of the old inbox. A call that another sidecar
// delivers from there stays until the next time. What cannot be opened belongs to another
// merchant, and stays.
func (r *Redis) adopt(ctx context.Context, inbox string) error {
	r.mu.Lock()
	now := r.now()
	wait := now.Before(r.adopted[inbox].Add(adoptEvery))
	r.mu.Unlock()
	if wait {
		return nil
	}
	if n, err := r.in.Client.Exists(ctx, r.in.OldBase(inbox)+"all").Result(); err != nil {
		return redisFailed(err)
	} else if n > 0 {
		if err := r.adoptAll(ctx, inbox); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adopted[inbox] = now
	return nil
}

func (r *Redis) adoptAll(ctx context.Context, inbox string) error {
	base := r.in.OldBase(inbox)
	for from := (cursor{received: math.MinInt64}); ; {
		page, err := r.in.List(ctx, base, from.score(), from.key, redisPage)
		if err != nil {
			return redisFailed(err)
		}
		for _, kept := range page[:min(redisPage, len(page))] {
			if err := r.adoptOne(ctx, base, inbox, kept); err != nil {
				return err
			}
			from = cursor{parseMillis(kept.Received).UnixMilli(), kept.Key}
		}
		if len(page) <= redisPage {
			return nil
		}
	}
}

// adoptOne moves one call, if it is ours.
func (r *Redis) adoptOne(ctx context.Context, base, inbox string, kept callredis.Kept) error {
	for _, p := range r.in.Places {
		if c, err := openCall(p, base, kept.Value); err == nil {
			return r.move(ctx, p, base, inbox, c, kept)
		}
	}
	return nil
}

// move moves a call. It leases the ordering key as the versions before do. If it ends half
// way, the next one finds the call in both inboxes.
func (r *Redis) move(ctx context.Context, p callredis.Place, base, inbox string, c *Call, kept callredis.Kept) error {
	c.Due, c.Inbox = parseMillis(kept.Due), inbox
	lease := r.in.OldLease(inbox, kept.OrderingKey)
	free, err := r.in.Client.SetNX(ctx, lease, "lane/adopt", adoptLease).Result()
	if err != nil || !free {
		return redisFailed(err)
	}
	defer r.in.Client.Del(context.WithoutCancel(ctx), lease)
	if n, err := r.in.Client.Exists(ctx, base+"call:"+c.Key).Result(); err != nil || n == 0 {
		return redisFailed(err) // an old sidecar has just delivered it
	}
	sealed, err := sealCall(p, *c)
	if err != nil {
		return err
	}
	if _, _, err := r.addSealed(ctx, p, *c, sealed); err != nil {
		return err
	}
	return redisFailed(r.in.Run(ctx, "drop", base, c.Key).Err())
}
