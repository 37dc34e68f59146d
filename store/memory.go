package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/patrickmn/go-cache"
)

// sweepEvery is how often expired values are dropped. They are never returned
// before that; sweeping only frees their memory.
const sweepEvery = 10 * time.Minute

// Memory is a [Store] within the process. Its content ends with it, so after a
// restart a repeated call is new again. Its errors are only about a wrong use.
// Its zero value is not usable.
type Memory struct {
	mu     sync.Mutex // held by what must be atomic
	values *cache.Cache
	leases *cache.Cache // owner by key

	stop chan struct{}
	done chan struct{}
}

// NewMemory returns an empty store. End it with [Memory.Close].
func NewMemory() *Memory {
	m := &Memory{
		// The cache's own sweeper would end only when garbage collected; ours ends with Close.
		values: cache.New(cache.NoExpiration, 0),
		leases: cache.New(cache.NoExpiration, 0),
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
			m.leases.DeleteExpired()
		}
	}
}

// Get implements [Store].
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	return m.value(key), nil
}

func (m *Memory) value(key string) []byte {
	value, _ := m.values.Get(key)
	text, _ := value.([]byte)
	return text
}

func (m *Memory) holder(key string) string {
	owner, _ := m.leases.Get(key)
	text, _ := owner.(string)
	return text
}

// Set implements [Store].
func (m *Memory) Set(_ context.Context, key string, value []byte, ttl time.Duration) error {
	if err := check(ttl, value); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values.Set(key, value, ttl)
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
	m.values.Set(key, value, ttl)
	return nil, nil
}

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	if err := check(lease); err != nil {
		return Claim{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Claim{Held: true, Values: make([][]byte, len(keys)), Holders: make([]string, len(keys))}
	for i, key := range keys {
		c.Values[i], c.Holders[i] = m.value(key), m.holder(key)
		if c.Values[i] != nil || c.Holders[i] != "" && c.Holders[i] != owner {
			c.Held = false
		}
	}
	if c.Held {
		for _, key := range keys {
			m.leases.Set(key, owner, lease)
		}
	}
	return c, nil
}

// Finish implements [Store].
func (m *Memory) Finish(_ context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error) {
	for _, e := range entries {
		if err := check(ttl, e.Value); err != nil {
			return false, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		if holder := m.holder(e.Key); holder != "" && holder != owner || m.value(e.Key) != nil {
			return false, nil
		}
	}
	for _, e := range entries {
		m.values.Set(e.Key, e.Value, ttl)
		m.leases.Delete(e.Key)
	}
	return true, nil
}

// Release implements [Store].
func (m *Memory) Release(_ context.Context, owner string, keys ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if m.holder(key) == owner {
			m.leases.Delete(key)
		}
	}
	return nil
}

// Close drops the content and ends the sweeper. The store must not be used
// afterwards, nor closed twice.
func (m *Memory) Close() error {
	close(m.stop)
	<-m.done
	m.values.Flush()
	m.leases.Flush()
	return nil
}

// check refuses what no store can keep.
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
