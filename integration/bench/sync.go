package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
)

const (
	syncFor     = time.Second
	syncSize    = 1 << 10
	syncCallers = 64
)

// syncLine compares, on the disk of folder, how many calls the inbox keeps for many callers
// at once with how many one fsync per call allows.
func syncLine(ctx context.Context, folder string) (string, error) {
	plain, err := plainSyncs(folder)
	if err != nil {
		return "", err
	}
	one, err := keepings(ctx, filepath.Join(folder, "sync-1"), 1)
	if err != nil {
		return "", err
	}
	many, err := keepings(ctx, filepath.Join(folder, "sync-many"), syncCallers)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(
		"\nOn this disk, for %d bytes each: one write and fsync per call %.0f calls/s; the inbox, its callers one after the other, %.0f calls/s; "+
			"%d callers at once %.0f calls/s, which is %.1f times the first and %.1f times the second.\n",
		syncSize,
		plain,
		one,
		syncCallers,
		many,
		many/plain,
		many/one,
	), nil
}

// plainSyncs returns how many writes per second each have an fsync of their own.
func plainSyncs(folder string) (float64, error) {
	file, err := os.CreateTemp(folder, "sync-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	n, start := 0, time.Now()
	for ; time.Since(start) < syncFor; n++ {
		if _, err := file.Write(make([]byte, syncSize)); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// keepings returns how many calls per second an inbox keeps for a number of callers.
func keepings(ctx context.Context, folder string, callers int) (_ float64, err error) {
	store, err := callstore.OpenBolt(callstore.BoltConfig{Folder: folder, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var n atomic.Int64
	failures := make([]error, callers)
	var wg sync.WaitGroup
	start := time.Now()
	for caller := range callers {
		wg.Go(func() {
			for time.Since(start) < syncFor && failures[caller] == nil {
				key := fmt.Sprint(n.Add(1))
				_, _, failures[caller] = store.Add(
					ctx, callstore.Call{Key: key, Inbox: "bench", OrderingKey: key, Body: make([]byte, syncSize), Received: start},
				)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(start).Seconds(), errors.Join(failures...)
}
