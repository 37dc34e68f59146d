package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// hang makes every sync of the sidecar's files take for ever, until the function that it
// returns is called.
func (env *testEnv) hang(t *testing.T) (release func()) {
	t.Helper()
	log := new(doktest.Log)
	cmd := exec.Command("strace", "-f", "-p", strconv.Itoa(env.sidecar.PID()), "-o", "/dev/null",
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=3600000000")
	process := doktest.Start(t, log, cmd)
	for end := time.Now().Add(doktest.Patience); !strings.Contains(log.String(), "attached"); time.Sleep(10 * time.Millisecond) {
		if text := log.String(); strings.Contains(text, "not permitted") {
			t.Skipf("skipped, because this system does not let strace attach: %s", text)
		}
		if time.Now().After(end) {
			t.Fatalf("strace does not attach: %s", log)
		}
	}
	return process.Kill
}

func TestADiskThatHangsKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	doktest.Need(t, "strace")
	for _, policy := range []string{"durable", "after_app"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			env, site := withHealth(t, "", options{inbox: "{\n policy " + policy + "\n answer_within 1s\n}"})
			awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
			release := env.hang(t)
			n := 0
			notify := func() (answer, time.Duration) {
				n++
				began := time.Now()
				got := env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n))})
				return got, time.Since(began)
			}
			// The app takes it: with after_app, that is what DOKU is told.
			got, took := notify()
			if want := map[string]int{"durable": http.StatusInternalServerError, "after_app": http.StatusOK}[policy]; got.status != want {
				t.Errorf("DOKU got HTTP %d %s, expected %d", got.status, got.body, want)
			}
			t.Logf("the first took %s", took)
			env.app.setAnswer(answering(http.StatusServiceUnavailable))
			got, took = notify()
			reason := got.header.Get("X-Doku-Error")
			if want := map[string]string{"durable": "inbox", "after_app": "not_kept"}[policy]; got.status != http.StatusInternalServerError ||
				reason != want {
				t.Errorf("DOKU got HTTP %d %s, expected 500 %s", got.status, reason, want)
			}
			t.Logf("the second took %s", took)
			awaitHealth(t, site, http.StatusServiceUnavailable, `"inbox":"not_ready"`)
			env.log.Await(t, "the disk does not answer", 1)
			env.app.setAnswer(nil)
			release()
			awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
			got, _ = notify()
			got.expect(t, http.StatusOK, "2002500")
			release = env.hang(t)
			if got, _ = notify(); policy == "durable" && got.status != http.StatusInternalServerError {
				t.Errorf("DOKU got HTTP %d %s", got.status, got.body)
			}
			stopped := make(chan bool)
			go func() { stopped <- env.sidecar.Stop() }()
			env.log.Await(t, "shutdown complete", 1)
			release() // the system keeps a process until its system calls have returned
			if !<-stopped {
				t.Error("the process did not end")
			}
		})
	}
}

func TestAnInboxThatCannotBeMendedRefusesUntilItCan(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "above", "inbox")
	env, site := withHealth(t, "", options{inbox: "{\n policy durable\n folder " + folder + "\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	var kept promises
	kept.send(t, env, "before", 5)
	above := filepath.Dir(folder)
	must(t, os.Rename(above, above+"-old"))
	must(t, os.WriteFile(above, nil, 0o600))
	awaitHealth(t, site, http.StatusServiceUnavailable, `"inbox":"not_ready"`)
	env.awaitLine(t, `"level":"error"`, "a new file could not be made", "not a directory")
	promised := len(kept.ids)
	kept.send(t, env, "meanwhile", 5)
	if len(kept.ids) != promised {
		t.Errorf("%d got 2xx that are not on disk", len(kept.ids)-promised)
	}
	if list, err := env.inboxCommand(t, "list"); err == nil {
		t.Errorf("what cannot be read is listed: %s", list)
	}
	must(t, os.Remove(above))
	awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
	env.awaitLine(t, `"level":"warn"`, "the inbox was damaged or gone", `"lost":0`)
	kept.send(t, env, "later", 5)
	env.app.setAnswer(nil)
	env.deliversAll(t, kept.ids, 0)
}

func TestTheFileIsNeverLargerThanMaxSize(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	folder := t.TempDir()
	env := start(t, options{inbox: "{\n policy durable\n max_size 1MiB\n folder " + folder + "\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	filler := strings.Repeat("x", 4000)
	check := func() {
		t.Helper()
		if info, err := os.Stat(inboxFile(folder)); err != nil || info.Size() > limit {
			t.Fatalf("the file: %+v, %v; expected at most %d bytes", info, err, limit)
		}
	}
	for round := 0; strings.Count(env.log.String(), "reached maximum size") < 20; round++ {
		each(20, func(i int) {
			env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(i), fmt.Sprint("P-", round, "-", i, filler))})
		})
		check()
	}
	if waiting, _ := env.kept(t); waiting < limit/4/len(filler) {
		t.Errorf("%d were kept in %d bytes", waiting, limit)
	}
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the delivery of what was kept", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	check()
}

// TestAnInboxThatComesBackIsMerged takes the file away, and puts it back when the sidecar has a
// new one and the app has taken everything.
func TestAnInboxThatComesBackIsMerged(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	env := start(t, options{inbox: "{\n policy durable\n folder " + folder + "\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	var kept promises
	kept.send(t, env, "before", 10)
	must(t, os.Rename(inboxFile(folder), inboxFile(folder)+".away"))
	env.awaitLine(t, "the inbox was damaged or gone", `"saved":10`, `"lost":0`)
	kept.send(t, env, "meanwhile", 5)
	env.app.setAnswer(nil)
	env.deliversAll(t, kept.ids, 0)
	calls := len(env.app.seen())
	must(t, os.Rename(inboxFile(folder)+".away", inboxFile(folder)))
	env.awaitLine(t, "the inbox was damaged or gone", "another one is at", `"saved":0`, `"lost":0`)
	env.deliversAll(t, kept.ids, 0)
	if now := len(env.app.seen()); now != calls {
		t.Errorf("the app got %d calls again", now-calls)
	}
	kept.send(t, env, "later", 5)
	env.deliversAll(t, kept.ids, 0)
}
