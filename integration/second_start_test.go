package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// A socket of the admin API is taken away by Caddy before any app starts.
func TestASecondStartLeavesTheAdminAPIAlone(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"unix", "tcp"} {
		env := newEnv(t)
		admin := "unix/" + filepath.Join(t.TempDir(), "admin.sock")
		if listen == "tcp" {
			admin = strings.TrimPrefix(env.admin, "http://")
		}
		config := func(env *testEnv) string {
			text := env.appSite("")
			before, after, _ := strings.Cut(text, "\tadmin ")
			_, after, _ = strings.Cut(after, "\n")
			return before + "\tadmin " + admin + "\n" + after
		}
		first := env.command(t, config(env))
		sites := []string{strings.TrimPrefix(env.inward, "http://")}
		running := doktest.Start(t, env.log, first, sites...)
		status := func() string {
			out, err := exec.CommandContext(t.Context(), binary(t), "doku", "status", "--address", admin).CombinedOutput()
			if err != nil {
				t.Errorf("%s: the commands do not reach the sidecar: %v: %s", listen, err, out)
			}
			return string(out)
		}
		ready := func() {
			doktest.Eventually(t, "the admin API to know the configuration, which comes after its sites", func() bool {
				return exec.CommandContext(t.Context(), binary(t), "doku", "status", "--address", admin).Run() == nil
			})
		}
		ready()
		const says = "another process answers at "
		for name, second := range map[string]*testEnv{"the same ports": env, "other ports": env.another(t)} {
			for _, word := range []string{"run", "start"} {
				cmd := second.command(t, config(second))
				cmd.Args[1] = word
				if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), says) {
					t.Errorf("%s, %s, %s: %v: %s", listen, word, name, err, out)
				}
				status()
			}
		}
		reload := env.command(t, config(env))
		reload.Args[1] = "reload"
		if out, err := reload.CombinedOutput(); err != nil {
			t.Errorf("%s: reload: %v: %s", listen, err, out)
		}
		validate := env.command(t, config(env))
		validate.Args[1] = "validate"
		if out, err := validate.CombinedOutput(); err != nil {
			t.Errorf("%s: validate: %v: %s", listen, err, out)
		}
		// The socket of a process that was killed is nobody's.
		running.Kill()
		doktest.Start(t, env.log, env.command(t, config(env)), sites...)
		ready()
	}
}
