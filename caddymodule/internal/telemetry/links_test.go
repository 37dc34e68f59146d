package telemetry

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestALinkIsKeptAsLongAsItsVirtualAccountMayLive(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 8, 27, 9, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, expires string
		want          time.Duration
	}{
		{"without an end, a week", "", linkDefault},
		{"to its end and a day more", now.Add(48 * time.Hour).Format(time.RFC3339), 72 * time.Hour},
		{"a day at least", now.Add(-48 * time.Hour).Format(time.RFC3339), linkGrace},
		{"a month at most", now.Add(4000 * time.Hour).Format(time.RFC3339), linkLongest},
		{"a week if the end cannot be read", "tomorrow", linkDefault},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			kept := &recordingStore{}
			s := NewLinks(kept, func() time.Time { return now })
			s.Add(t.Context(), snap.ReferenceOf(fmt.Appendf(nil, `{"virtualAccountNo":"    880890909090","expiredDate":%q}`, test.expires)),
				trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}))
			s.wg.Wait()
			s.Close()
			if kept.ttl != test.want || strings.Contains(kept.key, "0909") {
				t.Errorf("kept under %s for %s, expected %s", kept.key, kept.ttl, test.want)
			}
		})
	}
}

// recordingStore knows what was kept last.
type recordingStore struct {
	store.Store
	key string
	ttl time.Duration
}

func (*recordingStore) Get(context.Context, string) ([]byte, error) { return nil, nil }

func (r *recordingStore) Set(_ context.Context, key string, _ []byte, ttl time.Duration) error {
	r.key, r.ttl = key, ttl
	return nil
}
