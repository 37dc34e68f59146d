package inbox

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// BenchmarkDeliver delivers kept calls, each with an ordering key of its own.
func BenchmarkDeliver(b *testing.B) {
	for _, kept := range []int{500, 5000} {
		b.Run(fmt.Sprint(kept), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := openBolt(b, b.TempDir())
				memory := store.NewMemory()
				var delivered atomic.Int64
				ctx, stop := context.WithCancel(context.Background())
				i := New(Config{
					Name: "box", Store: s, Slots: NewSlots(memory, 10*time.Second),
					Deliver: func(context.Context, callstore.Call) (store.Answer, error) {
						if delivered.Add(1) == int64(kept) {
							stop()
						}
						return store.Answer{Status: 200}, nil
					},
					AnswerWithin: time.Second, AttemptTimeout: time.Second, MaxAge: time.Hour, RetainAcked: time.Hour,
					Concurrency: 16, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
				})
				done := make(chan struct{}, 64)
				for n := range 64 {
					go func() {
						for k := n; k < kept; k += 64 {
							c := call(fmt.Sprint(k), fmt.Sprint(k))
							c.Inbox = "box"
							if err := i.Enqueue(ctx, c); err != nil {
								b.Error(err)
							}
						}
						done <- struct{}{}
					}()
				}
				for range 64 {
					<-done
				}
				b.StartTimer()
				i.Run(ctx)
				_ = s.Close()
				_ = memory.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*kept), "µs/call")
		})
	}
}
