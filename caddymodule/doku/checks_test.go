package doku

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestACheckThatHangsKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		hang := make(chan struct{})
		c := newCheck(CheckInbox, readyFunc(func(context.Context) error {
			looks.Add(1)
			<-hang // a disk that does not answer heeds no context
			return nil
		}))
		for range 3 {
			if found := c.result(t.Context()); !errors.Is(found.Err, context.DeadlineExceeded) || found.Took != checkWithin {
				t.Errorf("found %v", found)
			}
			time.Sleep(checkInterval)
		}
		if looks.Load() != 1 {
			t.Errorf("%d looks under way", looks.Load())
		}
		close(hang)
		synctest.Wait()
		if found := c.result(t.Context()); found.Err != nil || looks.Load() != 2 {
			t.Errorf("afterwards: %v after %d looks", found, looks.Load())
		}
	})
}

func TestHoweverOftenItIsAskedForACheckIsMadeOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks, at atomic.Int32
		c := newCheck(CheckStore, readyFunc(func(ctx context.Context) error {
			looks.Add(1)
			if at.Add(1) > 1 {
				t.Error("two looks at once")
			}
			defer at.Add(-1)
			<-ctx.Done() // the store hangs
			return ctx.Err()
		}))
		start := time.Now()
		var wg sync.WaitGroup
		gone, leave := context.WithCancel(t.Context())
		leave() // whoever asks may hang up: the others get the result all the same
		for i := range 10000 {
			wg.Go(func() {
				ctx := t.Context()
				if i%2 == 0 {
					ctx = gone
				}
				if found := c.result(ctx); !errors.Is(found.Err, context.DeadlineExceeded) || found.Took != checkTimeout {
					t.Errorf("found %v", found)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != checkTimeout || looks.Load() != 1 {
			t.Errorf("%d looks within %s", looks.Load(), took)
		}
		time.Sleep(checkInterval - time.Nanosecond)
		c.result(t.Context())
		if looks.Load() != 1 {
			t.Error("looked again too early")
		}
		time.Sleep(time.Nanosecond)
		c.result(t.Context())
		if looks.Load() != 2 {
			t.Error("did not look again")
		}
	})
}
