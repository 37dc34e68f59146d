package caddymodule

import "testing"

func TestASessionWorksForTheLatestConfigurationThatHasNotStopped(t *testing.T) {
	t.Parallel()
	const environment = "http://127.0.0.1:1"
	first, second, third := build(t, environment).app, build(t, environment).app, build(t, environment).app
	session := first.Accounts[0].session
	worksFor := func(when string, want *App) {
		t.Helper()
		if session.log.current.Load() != want.log {
			t.Errorf("%s, the session works for another configuration", when)
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
	do(func() error { return first.Accounts[0].use(first.Accounts[0].credentials()) })
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
