//go:build unix

package doku

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAPipeIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, _, err := loaded(t, func(a *Account) { a.SecretKeys = []string{path} })
		refused <- err
	}()
	select {
	case err := <-refused:
		if err == nil || !strings.Contains(err.Error(), "expected a regular file, found one of mode p") {
			t.Errorf("error %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it is waited for")
	}
}
