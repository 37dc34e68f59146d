package httpio

import "testing"

func TestCleanPathsAreNotCopied(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va": true, "/orders/v1.0/transfer-va/status": true, "/a": true,
		"/": false, "": false, "a": false, "/a/": false, "//a": false, "/a//b": false, "/./a": false, "/a/..": false, "/A": false, "/a%62": false,
		"/a;b": false, "/a b": false, `/a\b`: false,
	} {
		if isClean(path) != want {
			t.Errorf("%s: expected %v", path, want)
		}
		if want && CleanPath(path) != path {
			t.Errorf("%s became %s", path, CleanPath(path))
		}
	}
}
