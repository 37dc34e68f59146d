package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// damages are what happens to the folder of an inbox while it is in use. whole says that what
// was kept can still be read.
var damages = []struct {
	name  string
	whole bool
	do    func(t *testing.T, folder string)
}{
	{"the file is removed", true, func(t *testing.T, folder string) { t.Helper(); must(t, os.Remove(inboxFile(folder))) }},
	{"the file is renamed", true, func(t *testing.T, folder string) {
		t.Helper()
		must(t, os.Rename(inboxFile(folder), inboxFile(folder)+".old"))
	}},
	{"the folder is removed", true, func(t *testing.T, folder string) { t.Helper(); must(t, os.RemoveAll(folder)) }},
	{"the folder is renamed", true, func(t *testing.T, folder string) { t.Helper(); must(t, os.Rename(folder, folder+"-old")) }},
	{"the folder and the one above are removed", true, func(t *testing.T, folder string) {
		t.Helper()
		must(t, os.RemoveAll(filepath.Dir(folder)))
	}},
	{"the file is replaced by a text", true, func(t *testing.T, folder string) {
		t.Helper()
		replaceBy(t, folder, bytes.Repeat([]byte("no database. "), 10_000))
	}},
	{"the file is replaced by an empty one", true, func(t *testing.T, folder string) { t.Helper(); replaceBy(t, folder, nil) }},
	{"the file is replaced by a folder", true, func(t *testing.T, folder string) {
		t.Helper()
		must(t, os.Remove(inboxFile(folder)))
		must(t, os.MkdirAll(filepath.Join(inboxFile(folder), "x"), 0o700))
	}},
	{"the file is replaced by a copy of itself", true, func(t *testing.T, folder string) {
		t.Helper()
		replaceBy(t, folder, read(t, folder))
	}},
	{"the file is replaced by a link to nothing", true, func(t *testing.T, folder string) {
		t.Helper()
		must(t, os.Remove(inboxFile(folder)))
		must(t, os.Symlink("nowhere", inboxFile(folder)))
	}},
	{"the file is emptied", false, func(t *testing.T, folder string) { t.Helper(); must(t, os.Truncate(inboxFile(folder), 0)) }},
	{"the file is cut short by a little", false, func(t *testing.T, folder string) { t.Helper(); cut(t, folder, 0.9) }},
	{"the file is cut in half", false, func(t *testing.T, folder string) { t.Helper(); cut(t, folder, 0.5) }},
	{"only the first page is left", false, func(t *testing.T, folder string) { t.Helper(); must(t, os.Truncate(inboxFile(folder), 4096)) }},
	{"it is overwritten with zeros", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) { clear(b) })
	}},
	{"it is overwritten with garbage", false, func(t *testing.T, folder string) { t.Helper(); overwrite(t, folder, garble) }},
	{"the second half is garbage", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) { garble(b[len(b)/2:]) })
	}},
	{"the first half is garbage", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) { garble(b[:len(b)/2]) })
	}},
	{"a byte of each page header is wrong", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) {
			r := rand.New(rand.NewPCG(1, 1))
			for at := 0; at < len(b); at += 4096 {
				b[at+r.IntN(16)] ^= 1 << r.IntN(8)
			}
		})
	}},
	{"one bit of each page is wrong", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) {
			r := rand.New(rand.NewPCG(2, 2))
			for at := 0; at < len(b); at += 4096 {
				b[at+r.IntN(4096)] ^= 1 << r.IntN(8)
			}
		})
	}},
	{"one page in the middle is garbage", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) { garble(b[len(b)/8192*4096:][:4096]) })
	}},
	{"the meta pages are garbage", false, func(t *testing.T, folder string) {
		t.Helper()
		overwrite(t, folder, func(b []byte) { garble(b[:8192]) })
	}},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func inboxFile(folder string) string { return filepath.Join(folder, "inbox.db") }

func read(t *testing.T, folder string) []byte {
	t.Helper()
	content, err := os.ReadFile(inboxFile(folder))
	must(t, err)
	return content
}

func replaceBy(t *testing.T, folder string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(inboxFile(folder)+".other", content, 0o600))
	must(t, os.Rename(inboxFile(folder)+".other", inboxFile(folder)))
}

func cut(t *testing.T, folder string, share float64) {
	t.Helper()
	must(t, os.Truncate(inboxFile(folder), int64(share*float64(len(read(t, folder))))))
}

// overwrite changes the content of the file in its place.
func overwrite(t *testing.T, folder string, change func([]byte)) {
	t.Helper()
	content := read(t, folder)
	change(content)
	f, err := os.OpenFile(inboxFile(folder), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(content, 0)
	must(t, err)
}

func garble(b []byte) {
	r := rand.New(rand.NewPCG(3, 3))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// promises are the notifications for which DOKU got a 2xx.
type promises struct {
	mu  sync.Mutex
	ids []string
}

// send sends notifications, several at once.
func (p *promises) send(t *testing.T, env *testEnv, name string, n int) {
	t.Helper()
	each(n, func(i int) {
		id := fmt.Sprintf("%s-%d", name, i)
		got := env.notify(t, simulator.Outgoing{ExternalID: "E-" + id, Body: paymentTo(fmt.Sprint(i), id)})
		if got.status == http.StatusOK {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ids = append(p.ids, id)
		} else if got.status < http.StatusInternalServerError {
			t.Errorf("DOKU got HTTP %d %s", got.status, got.body)
		}
	})
}

// lostCalls returns how many calls the log says are lost.
func lostCalls(log string) (n int) {
	for line := range strings.Lines(log) {
		var entry struct {
			Msg   string
			Calls int
		}
		if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Msg, "notifications were lost") {
			n += entry.Calls
		}
	}
	return n
}

// TestWhateverHappensToTheInboxInUseNothingHangs damages the inbox of a sidecar that keeps
// notifications, and gets more of them all the time.
func TestWhateverHappensToTheInboxInUseNothingHangs(t *testing.T) {
	t.Parallel()
	for _, damage := range damages {
		t.Run(damage.name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "above", "inbox")
			site := "http://" + doktest.FreeAddress(t)
			env := newEnv(t)
			config := env.caddyfile(options{inbox: "{\n policy durable\n folder " + folder + "\n}"}) +
				fmt.Sprintf("\n%s {\n doku_health\n respond 404\n}\n", site)
			env.run(t, config, site)
			env.app.setAnswer(answering(http.StatusServiceUnavailable))
			var kept promises
			kept.send(t, env, "before", 60)
			if len(kept.ids) != 60 {
				t.Fatalf("%d of 60 were kept", len(kept.ids))
			}
			damage.do(t, folder)
			kept.send(t, env, "after", 20)
			env.awaitLine(t, `"msg":"the inbox was damaged or gone`, `"level":"warn"`)
			awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
			kept.send(t, env, "healed", 20)
			if !env.sidecar.Stop() {
				t.Error("it did not end by itself")
			}
			lost := lostCalls(env.log.String())
			if damage.whole && lost > 0 {
				t.Errorf("%d calls were lost", lost)
			}
			again := env.another(t)
			again.run(t, strings.NewReplacer(env.inward, again.inward, env.outward, again.outward,
				strings.TrimPrefix(env.admin, "http://"), strings.TrimPrefix(again.admin, "http://")).Replace(config), site)
			again.app.setAnswer(nil)
			again.deliversAll(t, kept.ids, lost)
		})
	}
}

// deliversAll waits until the app has got all payments but some, and nothing waits.
func (env *testEnv) deliversAll(t *testing.T, ids []string, lost int) {
	t.Helper()
	doktest.Eventually(t, "all deliveries", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	var all strings.Builder
	for _, call := range env.app.seen() {
		all.WriteString(call.body)
	}
	missing := 0
	for _, id := range ids {
		if !strings.Contains(all.String(), `"paymentRequestId":"`+id+`"`) {
			missing++
		}
	}
	if missing > lost {
		t.Errorf("the app never got %d of %d that DOKU counts as delivered; %d may be lost", missing, len(ids), lost)
	}
	t.Logf("%d of %d are missing, %d may be", missing, len(ids), lost)
}

// TestADamagedFileIsSavedAtStart damages the file of a sidecar that does not run, as often as
// in the cases that were found: a bit of the header of a page, also of one that is not in use.
func TestADamagedFileIsSavedAtStart(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	env := start(t, options{inbox: "{\n policy durable\n folder " + folder + "\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	var kept promises
	kept.send(t, env, "before", 150)
	env.sidecar.Stop()
	pristine := read(t, folder)
	r := rand.New(rand.NewPCG(4, 4))
	for n := range 16 {
		at, bit := r.IntN(len(pristine)/4096)*4096+r.IntN(16), r.IntN(8)
		t.Run(fmt.Sprintf("bit %d of byte %d", bit, at), func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			file := bytes.Clone(pristine)
			file[at] ^= 1 << bit
			must(t, os.WriteFile(inboxFile(folder), file, 0o600))
			env := newEnv(t)
			config := env.caddyfile(options{inbox: "{\n policy durable\n folder " + folder + "\n}"})
			env.run(t, config)
			kept := promises{ids: slices.Clone(kept.ids)}
			kept.send(t, env, fmt.Sprint("new-", n), 5)
			// One that was written over is lost: the header is then within a long notification.
			env.deliversAll(t, kept.ids, 1)
			env.sidecar.Stop()
			calls := len(env.app.seen())
			again := env.another(t)
			again.run(t, again.caddyfile(options{inbox: "{\n policy durable\n folder " + folder + "\n}"}))
			again.deliversAll(t, kept.ids, 1)
			if now := len(env.app.seen()); now != calls {
				t.Errorf("%d calls came again after a restart", now-calls)
			}
		})
	}
}
