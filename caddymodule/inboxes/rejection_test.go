package inboxes

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
)

func TestOnlyWhatIsKeptIsSaidToBeKept(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, reason  string
		err           error
		message, hint string
	}{
		{"kept", reasons.Kept, inbox.ErrKept, "", ""},
		{"kept, and maybe booked", reasons.Kept, fmt.Errorf("%w: %w", inbox.ErrKept, inbox.ErrMaybeTaken), "kept: it is genuine", "6 h and 12 h"},
		{"not kept, and maybe booked", reasons.NotKept, fmt.Errorf("%w: %w", inbox.ErrLost, inbox.ErrMaybeTaken), "", ""},
	} {
		rejecter, ok := errors.AsType[reasons.Rejecter](new(Inbox).rejection(test.err))
		if !ok {
			t.Fatalf("%s: it knows no rejection", test.name)
		}
		got := rejecter.Rejection()
		if got.Reason != test.reason || !strings.Contains(got.Message, test.message) || (got.Message == "") != (test.message == "") ||
			!strings.Contains(got.Hint, test.hint) {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}
