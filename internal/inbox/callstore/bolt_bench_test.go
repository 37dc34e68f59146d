package callstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

func BenchmarkAdd(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := openBolt(b, b.TempDir())
			defer s.Close()
			b.SetParallelism(max(1, callers/2)) // of GOMAXPROCS, which is 2 where it was measured
			var n int64
			var mu sync.Mutex
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					n++
					key := fmt.Sprint(n)
					mu.Unlock()
					if _, _, err := s.Add(context.Background(), call(key, key)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
