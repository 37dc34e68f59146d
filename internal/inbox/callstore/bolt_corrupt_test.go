package callstore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
)

// openLogged opens a Bolt that writes to a log.
func openLogged(folder string) (*Bolt, *strings.Builder, error) {
	log := new(strings.Builder)
	b, err := OpenBolt(BoltConfig{Folder: folder, Now: func() time.Time { return epoch }, Logger: slog.New(slog.NewTextHandler(log, nil))})
	return b, log, err
}

func TestAFolderThatIsAFileIsAnError(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openLogged(folder); !errors.Is(err, ErrStore) {
		t.Errorf("error %v", err)
	}
}

func TestAFolderInUseIsAnError(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, _, err := openLogged(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, _, err := openLogged(folder); !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "give each sidecar a folder of its own") {
		t.Errorf("error %v", err)
	}
}

func TestABoltThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, path string)
	}{
		{"overwritten at its beginning", func(t *testing.T, path string) {
			t.Helper()
			overwrite(t, path, 0, 2*os.Getpagesize())
		}},
		{"overwritten after its beginning", func(t *testing.T, path string) {
			t.Helper()
			overwrite(t, path, 2*os.Getpagesize(), 64*os.Getpagesize())
		}},
		{"cut short", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Truncate(path, 100); err != nil {
				t.Fatal(err)
			}
		}},
		{"cut in half", cutInHalf},
		{"cut short by a page", cutByAPage},
		{"replaced by another file", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database. ", 10_000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			fillForDamage(t, folder)
			test.damage(t, filepath.Join(folder, BoltFile))
			b, log, err := openLogged(folder)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, _, err := b.Add(t.Context(), call("new", "va")); err != nil {
				t.Errorf("the new file does not work: %v", err)
			}
			mustBePutAside(t, folder, log)
		})
	}
}

// fillForDamage keeps calls and records in a file, and closes it.
func fillForDamage(t *testing.T, folder string) {
	t.Helper()
	b := openBolt(t, folder)
	long := thanks
	long.Body = make([]byte, 4000)
	for n := range 50 {
		if _, _, err := b.Add(t.Context(), call(fmt.Sprint(n), "va")); err != nil {
			t.Fatal(err)
		}
		if err := b.Ack(t.Context(), call(fmt.Sprint("t", n), "va"), long, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// mustBePutAside checks that one file was put aside, and that the log names it.
func mustBePutAside(t *testing.T, folder string, log *strings.Builder) {
	t.Helper()
	aside, err := filepath.Glob(filepath.Join(folder, BoltFile+".corrupt-*"))
	if err != nil || len(aside) != 1 || !strings.Contains(log.String(), aside[0]) {
		t.Errorf("put aside: %v, %v; the log says %s", aside, err, log)
	}
}

func cutInHalf(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func cutByAPage(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	err = db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
	if err = errors.Join(err, db.Close(), os.Truncate(path, size-int64(os.Getpagesize()))); err != nil {
		t.Fatal(err)
	}
}

func TestAFileThatBecomesShorterIsAnError(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b := openBolt(t, folder)
	defer func() { _ = b.Close() }()
	for n := range 100 {
		c := call(fmt.Sprint(n), "va")
		c.Body = make([]byte, 10_000)
		if _, _, err := b.Add(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(folder, BoltFile), int64(4*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "box", "50"); !errors.Is(err, ErrStore) {
		t.Errorf("error %v", err)
	}
}

func TestADamagedCallIsNotDelivered(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b := openBolt(t, folder)
	for n := range 3 {
		if _, _, err := b.Add(t.Context(), call(fmt.Sprint(n), "va")); err != nil {
			t.Fatal(err)
		}
	}
	err := b.file.Load().Update(false, func(tx *boltfile.Tx) error {
		sequence := sequenceKey(1)
		value, err := tx.Get(callsBucket, sequence)
		altered := bytes.Replace(value, []byte(`"paymentRequestId":"0"`), []byte(`"paymentRequestId":"9"`), 1)
		if bytes.Equal(altered, value) {
			t.Error("nothing was altered")
		}
		return errors.Join(err, tx.Put(callsBucket, sequence, altered))
	})
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	b, log, err := openLogged(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if first, err := b.Peek(t.Context(), "box", "va"); err != nil || first == nil || first.Key != "1" {
		t.Errorf("the first call is %+v, %v", first, err)
	}
	if all, _, err := b.List(t.Context(), "box", "", 10); err != nil || len(all) != 2 {
		t.Errorf("%d calls are left, %v", len(all), err)
	}
	mustBePutAside(t, folder, log)
}

func overwrite(t *testing.T, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	garbage := make([]byte, to-from)
	for i := range garbage {
		garbage[i] = 0xa5
	}
	if _, err := f.WriteAt(garbage, int64(from)); err != nil {
		t.Fatal(err)
	}
}
