package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var testBuckets = []string{"calls", "taken"}

// filled makes a file with some records, of which one needs several pages, and returns its
// content.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	f, err := Open(Config{Path: path, Buckets: testBuckets, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 60 {
		err := f.Update(false, func(tx *Tx) error {
			key, value := fmt.Appendf(nil, "%08d", n), make([]byte, 500)
			if n == 30 {
				value = make([]byte, 10_000)
			}
			err := errors.Join(tx.Put("calls", key, value), tx.Put("taken", append(key, "-taken"...), value[:50]))
			if n%3 == 0 {
				err = errors.Join(err, tx.Delete("calls", fmt.Appendf(nil, "%08d", n/2)))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// inspect checks a file as a start does, and returns how many records it has.
func inspect(content []byte) (records int, err error) {
	im := &image{r: bytes.NewReader(content), pageSize: int64(os.Getpagesize())}
	m, both, err := im.newest()
	if err != nil || !both {
		return 0, errors.Join(ErrDamaged, err)
	}
	w := newWalk(im, m)
	found, err := w.buckets(testBuckets)
	if err != nil {
		return 0, err
	}
	for _, name := range testBuckets {
		if err := w.bucket(found[name], func(_, _ []byte) error { records++; return nil }); err != nil {
			return records, err
		}
	}
	return records, w.freePages()
}

func TestEveryBitOfAHeaderIsNoticed(t *testing.T) {
	t.Parallel()
	content := filled(t)
	all, err := inspect(content)
	if err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	unnoticed := 0
	for at := range content {
		if within := at % size; within >= pageHeader+elementHeader {
			continue
		}
		for bit := range 8 {
			content[at] ^= 1 << bit
			records, err := inspect(content)
			content[at] ^= 1 << bit
			switch {
			case err != nil && !errors.Is(err, ErrDamaged):
				t.Fatalf("byte %d: %v", at, err)
			case err == nil && records != all:
				t.Errorf("byte %d, bit %d of page %d: nobody has noticed, and %d of %d records are left", at%size, bit, at/size, records, all)
			case err == nil:
				unnoticed++ // in a page that is free, or in a value, which has a checksum of its own
			}
		}
	}
	t.Logf("%d bits do not matter", unnoticed)
}

func TestATreeThatGoesRoundInCirclesEnds(t *testing.T) {
	t.Parallel()
	content := filled(t)
	size := os.Getpagesize()
	for from := 2; from < len(content)/size; from++ {
		page := content[from*size:]
		if page[8] != flagBranch {
			continue
		}
		before := page[pageHeader+8]
		for to := range len(content) / size {
			page[pageHeader+8] = byte(to)
			if _, err := inspect(content); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("page %d leads to %d: %v", from, to, err)
			}
			s := &salvager{names: testBuckets, finds: make(map[string]map[string]find), Salvage: Salvage{
				Identify: func(key, _ []byte) (Record, bool) { return Record{Bucket: "calls", ID: string(key)}, true },
				Wanted:   func(Record) bool { return true },
			}}
			s.file(bytes.NewReader(content), int64(len(content)))
			if len(s.finds["calls"]) < 60 {
				t.Errorf("page %d leads to %d: %d records were found", from, to, len(s.finds["calls"]))
			}
		}
		page[pageHeader+8] = before
	}
}
