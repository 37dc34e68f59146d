package doku

import (
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
)

func TestARuntimeWorksForTheLatestConfigurationThatHasNotStopped(t *testing.T) {
	t.Parallel()
	const environment = "http://127.0.0.1:1"
	build := func() *App { return moduletest.Build(t, environment, moduletest.Options{}).App().(*App) }
	first, second, third := build(), build(), build()
	rt := first.Accounts[0].runtime
	worksFor := func(when string, want *App) {
		t.Helper()
		if rt.users[len(rt.users)-1].app != want {
			t.Errorf("%s, the runtime works for another configuration", when)
		}
	}
	do := func(f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	do(first.Start)
	worksFor("after the start", first)
	do(second.Start)
	worksFor("after a reload", second)
	do(func() error { return first.Accounts[0].use(first.Accounts[0].Credentials()) })
	worksFor("after the old one has taken up other credentials", second)
	do(second.Stop)
	do(second.Cleanup)
	worksFor("after a reload that has failed", first)
	do(func() error { return third.Accounts[0].start(third) })
	do(third.Cleanup)
	worksFor("after a reload whose accounts have failed to start", first)
	do(first.Stop)
	do(first.Cleanup)
}
