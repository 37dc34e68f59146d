package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patrickmn/go-cache"
)

// sweepEvery is how often expired values are removed, which only frees memory: no
// method returns an expired value.
const sweepEvery = 10 * time.Minute

// Memory is a [Store] within one process. A restart loses its content, so a repeat of
// an earlier call is then a new call. It fails only if it is used wrongly. Make it
// with [NewMemory]; it is safe for concurrent use.
type Memory struct {
	mu     sync.Mutex       // held during each atomic operation
	values *cache.Cache     // *string by key
	leases map[string]lease // by key; few, because a lease lasts as long as a call
	now    func() time.Time // the clock of the cache

	// A day has hundreds of thousands of keys and values, and the garbage collector
	// visits each allocation again and again. So hundreds of them share one block. A
	// block is freed when all its values have expired, and all values whose addresses
	// are in the same slice.
	texts     strings.Builder // the current block, of keys and values
	addresses []string        // the values, as the cache points to them

	stop chan struct{}
	done chan struct{}
}

type lease struct {
	owner  string
	until  time.Time
	valued bool // the key got a value after the lease began
}

const (
	textsSize     = 64 << 10
	addressesSize = 1 << 10
)

// NewMemory returns an empty store. The caller must end it with [Memory.Close].
func NewMemory() *Memory {
	m := &Memory{
		// No sweeper of the cache itself: it ends only by garbage collection. Ours ends with Close.
		values: cache.New(cache.NoExpiration, 0),
		leases: make(map[string]lease),
		now:    time.Now, //nolint:forbidigo // the cache has no other clock
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go m.sweep()
	return m
}

func (m *Memory) sweep() {
	defer close(m.done)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-ticker.C:
			m.values.DeleteExpired()
			m.tidy()
		}
	}
}

// Get implements [Store].
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	return m.value(key), nil
}

func (m *Memory) value(key string) []byte {
	if value, ok := m.values.Get(key); ok {
		return []byte(*value.(*string))
	}
	return nil
}

// put keeps value under key. The caller holds m.mu.
func (m *Memory) put(key string, value []byte, ttl time.Duration) {
	if len(key)+len(value) > textsSize/4 { // its own allocation, freed when it expires
		text := string(value)
		m.values.Set(key, &text, ttl)
	} else {
		key, address := m.write(key, value)
		m.values.Set(key, address, ttl)
	}
	if l, ok := m.leases[key]; ok {
		l.valued = true
		m.leases[key] = l
	}
}

// write writes key and value into the current block. The caller holds m.mu.
func (m *Memory) write(key string, value []byte) (string, *string) {
	size := len(key) + len(value)
	if size > m.texts.Cap()-m.texts.Len() {
		m.texts.Reset()
		m.texts.Grow(textsSize)
	}
	m.texts.WriteString(key)
	m.texts.Write(value)
	both := m.texts.String()[m.texts.Len()-size:]
	if len(m.addresses) == cap(m.addresses) {
		m.addresses = make([]string, 0, addressesSize)
	}
	m.addresses = append(m.addresses, both[len(key):])
	return both[:len(key)], &m.addresses[len(m.addresses)-1]
}

// tidy removes expired leases and begins new blocks, so that the current ones can be
// freed before they are full.
func (m *Memory) tidy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts.Reset()
	m.addresses = nil
	now := m.now()
	maps.DeleteFunc(m.leases, func(_ string, l lease) bool { return !now.Before(l.until) })
}

// holder returns the owner of the lease of key, or "". The caller holds m.mu.
func (m *Memory) holder(key string, now time.Time) string {
	if l, ok := m.leases[key]; ok && now.Before(l.until) {
		return l.owner
	}
	return ""
}

// free reports whether key has no value and no lease of another process. The caller
// holds m.mu.
func (m *Memory) free(owner, key string, now time.Time) bool {
	if l, ok := m.leases[key]; ok && now.Before(l.until) {
		if own := processOf(l.owner) == processOf(owner); !own || !l.valued {
			return own // it had no value when it was leased
		}
	}
	_, has := m.values.Get(key)
	return !has
}

// Set implements [Store].
func (m *Memory) Set(_ context.Context, key string, value []byte, ttl time.Duration) error {
	if err := check(ttl, value); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, value, ttl)
	return nil
}

// Add implements [Store].
func (m *Memory) Add(_ context.Context, key string, value []byte, ttl time.Duration) ([]byte, error) {
	if err := check(ttl, value); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if kept := m.value(key); kept != nil {
		return kept, nil
	}
	m.put(key, value, ttl)
	return nil, nil
}

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, owner string, duration time.Duration, keys ...string) (Claim, error) {
	if err := check(duration); err != nil {
		return Claim{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if !slices.ContainsFunc(keys, func(key string) bool { return !m.free(owner, key, now) }) {
		for _, key := range keys {
			m.leases[key] = lease{owner: owner, until: now.Add(duration)}
		}
		return Claim{Held: true}, nil
	}
	c := Claim{Values: make([][]byte, len(keys)), Holders: make([]string, len(keys))}
	for i, key := range keys {
		c.Values[i], c.Holders[i] = m.value(key), m.holder(key, now)
	}
	return c, nil
}

// Commit implements [Store].
func (m *Memory) Commit(_ context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error) {
	for _, e := range entries {
		if err := check(ttl, e.Value); err != nil {
			return false, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, e := range entries {
		if !m.free(owner, e.Key, now) {
			return false, nil
		}
	}
	for _, e := range entries {
		delete(m.leases, e.Key)
		m.put(e.Key, e.Value, ttl)
	}
	return true, nil
}

// Release implements [Store].
func (m *Memory) Release(_ context.Context, owner string, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, key := range keys {
		if m.holder(key, now) == owner {
			delete(m.leases, key)
		}
	}
	return nil
}

// Close frees the content and stops the background goroutine. The store must not be
// used after it, nor closed twice.
func (m *Memory) Close() error {
	close(m.stop)
	<-m.done
	m.values.Flush()
	return nil
}

// check returns an error for a value or a time to live that no store can keep.
func check(ttl time.Duration, values ...[]byte) error {
	if ttl < time.Millisecond {
		return fmt.Errorf("%w: expected a time of at least 1 ms, found %s", ErrStore, ttl)
	}
	for _, value := range values {
		if len(value) == 0 {
			return fmt.Errorf("%w: expected a value, found none", ErrStore)
		}
	}
	return nil
}

var _ Store = (*Memory)(nil)
