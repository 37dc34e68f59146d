package store

import (
	"context"
	"errors"
	"time"

	"github.com/patrickmn/go-cache"
)

// sweepEvery is how often expired values are dropped. They are never returned
// before that; sweeping only frees their memory.
const sweepEvery = 10 * time.Minute

// Memory is a [Store] within the process. Its content ends with it, so after a
// restart a repeated call is new again. Its zero value is not usable.
type Memory struct {
	cache *cache.Cache
	stop  chan struct{}
	done  chan struct{}
}

// NewMemory returns an empty store. End it with [Memory.Close].
func NewMemory() *Memory {
	m := &Memory{
		// The cache's own sweeper would end only when garbage collected; ours ends with Close.
		cache: cache.New(cache.NoExpiration, 0),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
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
			m.cache.DeleteExpired()
		}
	}
}

// Get implements [Store]. Its error is always nil.
func (m *Memory) Get(_ context.Context, key string) ([]byte, bool, error) {
	value, found := m.cache.Get(key)
	if !found {
		return nil, false, nil
	}
	return value.([]byte), true, nil
}

// Set implements [Store].
func (m *Memory) Set(_ context.Context, key string, value []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return errors.New("memory store: expected a positive time to live")
	}
	m.cache.Set(key, value, ttl)
	return nil
}

// Close drops the content and ends the sweeper. The store must not be used
// afterwards, nor closed twice.
func (m *Memory) Close() {
	close(m.stop)
	<-m.done
	m.cache.Flush()
}

var _ Store = (*Memory)(nil)
