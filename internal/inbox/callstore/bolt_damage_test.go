package callstore

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// history is what a file that will be damaged has been through.
type history struct {
	folder string
	waits  map[string]Call // by key
	taken  map[string]bool
}

// fullOfHistory makes a file with calls that wait, and traces of those that were taken, dropped
// and written again.
func fullOfHistory(t *testing.T, calls int) history {
	t.Helper()
	h := history{folder: t.TempDir(), waits: make(map[string]Call), taken: make(map[string]bool)}
	b := openBolt(t, h.folder)
	random := rand.New(rand.NewPCG(1, 2))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range calls {
		c := call(fmt.Sprintf("%x", sha256.Sum256([]byte{byte(n), byte(n >> 8)}))[:32], fmt.Sprint("va", n%40))
		c.Body = fmt.Appendf(nil, `{"n":%d,"x":%q}`, n, make([]byte, random.IntN(300)))
		if n%50 == 7 {
			c.Body = make([]byte, 9_000) // needs pages of its own
		}
		_, _, err := b.Add(t.Context(), c)
		must(err)
		switch n % 5 {
		case 0:
			must(b.Ack(t.Context(), c, thanks, time.Hour))
			h.taken[c.Key] = true
		case 1:
			_, err := b.Drop(t.Context(), c.Inbox, c.Key)
			must(err)
		case 2:
			c.Attempts, c.Error, c.Due = 3, "HTTP 503", epoch.Add(time.Minute)
			must(b.Update(t.Context(), c))
			fallthrough
		default:
			h.waits[c.Key] = c
		}
	}
	must(b.Close())
	return h
}

// found is what is left of a history after damage.
type found struct{ lost, altered, revived, forgotten int }

// check opens a damaged file, and delivers all of it, over a restart.
func (h history) check(t *testing.T, folder string) (f found) {
	t.Helper()
	left := maps.Clone(h.waits)
	for round := range 2 {
		b, _, err := openLogged(folder)
		if err != nil {
			t.Fatal(err)
		}
		all, _, err := b.List(t.Context(), "box", "", 10*len(h.waits))
		if err != nil {
			t.Fatal(err)
		}
		if round == 1 && len(all) != 1 {
			t.Errorf("%d calls came back after they were delivered", len(all))
		}
		for _, listed := range all {
			c, err := b.Get(t.Context(), "box", listed.Key)
			if err != nil || c == nil {
				t.Fatalf("a listed call: %v, %v", c, err)
			}
			was, waits := h.waits[c.Key]
			switch {
			case c.Key == "new":
				continue
			case !waits:
				f.revived++
			case !bytes.Equal(c.Body, was.Body) || c.Attempts != was.Attempts || c.Target != was.Target:
				f.altered++
			}
			delete(left, c.Key)
			if err := b.Ack(t.Context(), *c, thanks, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		for key := range h.taken {
			if acked, _, err := b.Lookup(t.Context(), "box", key); err != nil {
				t.Fatal(err)
			} else if acked == nil && round == 0 {
				f.forgotten++
			} else if acked != nil && !bytes.Equal(acked.Body, thanks.Body) {
				f.altered++
			}
		}
		if _, _, err := b.Add(t.Context(), call("new", "va")); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f.lost = len(left)
	return f
}

// damages change a few bytes of a file.
var damages = map[string]func(r *rand.Rand, file []byte, at int){
	"a bit":          func(r *rand.Rand, file []byte, at int) { file[at] ^= 1 << r.IntN(8) },
	"a byte":         func(r *rand.Rand, file []byte, at int) { file[at] += byte(1 + r.IntN(255)) },
	"some zeros":     func(_ *rand.Rand, file []byte, at int) { clear(file[at:min(at+16, len(file))]) },
	"some garbage":   func(r *rand.Rand, file []byte, at int) { garble(r, file[at:min(at+32, len(file))]) },
	"a zeroed page":  func(_ *rand.Rand, file []byte, at int) { clear(pageAt(file, at)) },
	"a garbage page": func(r *rand.Rand, file []byte, at int) { garble(r, pageAt(file, at)) },
}

func garble(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

func pageAt(file []byte, at int) []byte {
	size := os.Getpagesize()
	return file[at/size*size:][:size]
}

// places choose where a file is damaged.
var places = map[string]func(r *rand.Rand, size int) int{
	"anywhere":         func(r *rand.Rand, size int) int { return r.IntN(size) },
	"in a page header": func(r *rand.Rand, size int) int { return r.IntN(size/os.Getpagesize())*os.Getpagesize() + r.IntN(16) },
	"in the elements": func(r *rand.Rand, size int) int {
		return r.IntN(size/os.Getpagesize())*os.Getpagesize() + 16 + r.IntN(160)
	},
	"in the meta pages": func(r *rand.Rand, _ int) int { return r.IntN(2)*os.Getpagesize() + r.IntN(80) },
}

func TestWhateverIsDamagedTheRestIsSaved(t *testing.T) {
	t.Parallel()
	h := fullOfHistory(t, 400)
	pristine, err := os.ReadFile(filepath.Join(h.folder, BoltFile))
	if err != nil {
		t.Fatal(err)
	}
	rounds := 16
	if n, err := strconv.Atoi(os.Getenv("DOKU_DAMAGES")); err == nil {
		rounds = n
	} else if testing.Short() {
		rounds = 2
	}
	for place, choose := range places {
		for damage, apply := range damages {
			t.Run(damage+" "+place, func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(uint64(len(place)), uint64(len(damage))))
				var sum found
				for range rounds {
					folder := t.TempDir()
					file := bytes.Clone(pristine)
					at := choose(r, len(file))
					apply(r, file, at)
					if err := os.WriteFile(filepath.Join(folder, BoltFile), file, 0o600); err != nil {
						t.Fatal(err)
					}
					f := h.check(t, folder)
					sum = found{sum.lost + f.lost, sum.altered + f.altered, sum.revived + f.revived, sum.forgotten + f.forgotten}
					if most := mostLost[damage]; f.lost > most || f.altered > 0 || f.revived > 0 || f.forgotten > 12*most {
						t.Errorf("at %d (page %d, byte %d): %+v", at, at/os.Getpagesize(), at%os.Getpagesize(), f)
					}
				}
				t.Logf("%d times: %+v", rounds, sum)
			})
		}
	}
}

// mostLost is how many calls may be lost: no more than those that were hit.
var mostLost = map[string]int{"a bit": 1, "a byte": 1, "some zeros": 2, "some garbage": 3, "a zeroed page": 8, "a garbage page": 8}

func TestManyDamagesAtOnceDelayNoStart(t *testing.T) {
	t.Parallel()
	h := fullOfHistory(t, 200)
	pristine, err := os.ReadFile(filepath.Join(h.folder, BoltFile))
	if err != nil {
		t.Fatal(err)
	}
	var sum found
	r := rand.New(rand.NewPCG(5, 5))
	const rounds = 60
	for range rounds {
		folder := t.TempDir()
		file := bytes.Clone(pristine)
		for range 1 << r.IntN(12) {
			file[r.IntN(len(file))] ^= 1 << r.IntN(8)
		}
		if r.IntN(4) == 0 {
			file = file[:r.IntN(len(file))]
		}
		if err := os.WriteFile(filepath.Join(folder, BoltFile), file, 0o600); err != nil {
			t.Fatal(err)
		}
		f := h.check(t, folder)
		sum = found{sum.lost + f.lost, sum.altered + f.altered, sum.revived + f.revived, sum.forgotten + f.forgotten}
	}
	t.Logf("%d times: %+v", rounds, sum)
	if sum.altered > 0 || sum.lost > rounds*len(h.waits)*3/4 {
		t.Errorf("%+v of %d calls", sum, rounds*len(h.waits))
	}
}

// TestAFileIsMendedAgainAndAgain damages a file that is in use, while several goroutines use it.
func TestAFileIsMendedAgainAndAgain(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, BoltFile)
	var clock atomic.Int64 // so that nobody waits until the file may be replaced again
	log := &lockedBuilder{}
	b, err := OpenBolt(BoltConfig{
		Folder: folder, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Now: func() time.Time { return epoch.Add(time.Duration(clock.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var users sync.WaitGroup
	var added atomic.Int64
	for user := range 4 {
		users.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				c := call(fmt.Sprint(user, "-", n), fmt.Sprint("va", user))
				if _, _, err := b.Add(t.Context(), c); err == nil {
					added.Add(1)
				}
				if first, err := b.Peek(t.Context(), "box", c.OrderingKey); err == nil && first != nil && n%3 > 0 {
					_ = b.Ack(t.Context(), *first, thanks, time.Hour)
				}
				_, _, _ = b.List(t.Context(), "box", "", 10)
			}
		})
	}
	r := rand.New(rand.NewPCG(6, 6))
	for range 40 {
		before := added.Load()
		doktest.Eventually(t, "the store to go on", func() bool {
			clock.Add(int64(mendLongest))
			return added.Load() > before+20
		})
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // it is being replaced
		}
		info, err := file.Stat()
		if err == nil && info.Size() > 0 {
			garbage := make([]byte, 1+r.IntN(64))
			garble(r, garbage)
			switch r.IntN(4) {
			case 0:
				_ = file.Truncate(r.Int64N(info.Size()))
			case 1:
				_ = os.Remove(path)
			default:
				_, _ = file.WriteAt(garbage, r.Int64N(info.Size()))
			}
		}
		_ = file.Close()
	}
	close(stop)
	users.Wait()
	if err := b.Close(); err != nil {
		t.Logf("closing it: %v", err) // it may have been damaged just before
	}
	t.Logf("%d added, replaced %d times", added.Load(), strings.Count(log.String(), "damaged or gone: what"))
	if b, _, err = openLogged(folder); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFileThatWasSavedKeepsItsLimit(t *testing.T) {
	t.Parallel()
	const limit = 1<<20 + 12345
	folder := t.TempDir()
	path := filepath.Join(folder, BoltFile)
	cfg := BoltConfig{Folder: folder, Logger: slog.New(slog.DiscardHandler), Now: time.Now, MaxSize: limit}
	b, err := OpenBolt(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for ; err == nil; kept++ {
		_, _, err = b.Add(t.Context(), call(fmt.Sprint(kept), fmt.Sprint("va", kept)))
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(file) > limit || len(file) < limit/2 || kept*600 < limit/3 {
		t.Errorf("%d calls are in %d bytes", kept, len(file))
	}
	file[len(file)/2/os.Getpagesize()*os.Getpagesize()] ^= 1
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err = OpenBolt(cfg); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for n := range kept {
		if _, err := b.Drop(t.Context(), "box", fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > limit {
		t.Errorf("after it was saved: %+v, %v", info, err)
	}
}

// TestAHealthyFileIsNeverReplaced checks a file all the time while others use it, with calls that
// are small and large, taken, dropped and written again.
func TestAHealthyFileIsNeverReplaced(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	log := &lockedBuilder{}
	b, err := OpenBolt(BoltConfig{Folder: folder, Logger: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now, MaxSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	changes := 3000
	if testing.Short() {
		changes = 300
	}
	var users sync.WaitGroup
	for user := range 6 {
		users.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(user)))
			for n := range changes / 6 {
				c := call(fmt.Sprint(user, "-", n), fmt.Sprint("va", user, n%3))
				c.Body = make([]byte, r.IntN(1500))
				if r.IntN(20) == 0 {
					c.Body = make([]byte, r.IntN(20_000))
				}
				_, _, err := b.Add(t.Context(), c)
				first, failed := b.Peek(t.Context(), "box", c.OrderingKey)
				switch {
				case err != nil || failed != nil || first == nil:
					t.Errorf("%v, %v", err, failed)
					return
				case n%4 == 0:
					first.Attempts, first.Error = first.Attempts+1, strings.Repeat("e", r.IntN(300))
					err = b.Update(t.Context(), *first)
				case n%7 == 0:
					_, err = b.Drop(t.Context(), "box", first.Key)
				default:
					err = b.Ack(t.Context(), *first, thanks, time.Duration(r.IntN(int(time.Second))))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var scrubs int
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.scrub(t.Context(), b.file.Load()); err != nil {
				t.Error(err)
				return
			}
			if scrubs++; scrubs%5 == 0 {
				if err := b.sweep(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	users.Wait()
	close(stop)
	scrubbing.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d scrubs", scrubs)
	if b, again, err := openLogged(folder); err != nil || again.String() != "" || log.String() != "" {
		t.Errorf("opened again: %v, %s%s", err, log, again)
	} else if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// lockedBuilder is a strings.Builder for several goroutines.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
