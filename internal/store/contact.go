package store

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// contactGap is the longest time without contact that counts as none. It is shorter
	// than what is left of a lease of 10 s when its renewal is due, so that a Redis that
	// is away for less leaves time to renew.
	contactGap = 3 * time.Second

	contactBeat = time.Second
)

// contact writes into Redis since when this process has reached it without a gap, for
// each group of keys that are in one slot of a cluster. Only a process that has been in
// contact for as long as a lease takes over an expired one: while Redis is away, nobody
// can renew a lease, and its holder may be alive.
//
// It is in Redis and by the clock of Redis, so that a claim counts as of when Redis runs
// it: a Redis that was stopped runs late what was sent to it before.
type contact struct {
	client redis.UniversalClient
	name   string // of this process

	mu     sync.Mutex
	keys   map[string]bool
	beat   chan string     // has the key of a new group
	ctx    context.Context //nolint:containedctx // of the goroutine
	stop   context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended; nil before it has begun
	closed bool
}

func newContact(client redis.UniversalClient) *contact {
	ctx, stop := context.WithCancel(context.Background())
	return &contact{client: client, name: rand.Text(), keys: make(map[string]bool), beat: make(chan string, 1), ctx: ctx, stop: stop}
}

// KEYS: the key of the contact. ARGV: the gap in ms.
var contactScript = redis.NewScript(redisNow + `
local since = tonumber(redis.call('GET', KEYS[1]) or '')
if since and since <= now then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
else
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], string.format('%.0f', now), 'PX', ARGV[1])
end
return 1`)

// redisNow is the time of Redis in ms.
const redisNow = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

// of returns the key of the contact for a group of keys in Redis, and keeps contact from
// now on. prefix is that of all keys.
func (c *contact) of(prefix, key string) string {
	group := ""
	if from, to := strings.IndexByte(key, '{'), strings.IndexByte(key, '}'); from >= 0 && from < to {
		group = key[from : to+1]
	}
	name := prefix + "contact:" + group + c.name
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.keys[name] {
		return name
	}
	c.keys[name] = true
	if c.done == nil {
		c.done = make(chan struct{})
		go c.run()
	}
	select {
	case c.beat <- name:
	default: // the next beat has it
	}
	return name
}

// run keeps contact until c is closed.
func (c *contact) run() {
	defer close(c.done)
	ticker := time.NewTicker(contactBeat)
	defer ticker.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case name := <-c.beat:
			c.touch(name)
		case <-ticker.C:
			for _, name := range c.all() {
				c.touch(name)
			}
		}
	}
}

// touch tells Redis that this process reaches it. An error is a gap.
func (c *contact) touch(name string) {
	_ = contactScript.Run(c.ctx, c.client, []string{name}, contactGap.Milliseconds()).Err()
}

func (c *contact) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.keys))
	for name := range c.keys {
		names = append(names, name)
	}
	return names
}

// close ends the goroutine.
func (c *contact) close() {
	c.mu.Lock()
	c.closed = true
	done := c.done
	c.mu.Unlock()
	c.stop()
	if done != nil {
		<-done
	}
}
