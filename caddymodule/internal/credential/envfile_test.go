package credential

import (
	"slices"
	"testing"
)

func TestEnvFilesAreReadAsCaddyReadsThem(t *testing.T) {
	t.Parallel()
	args := []string{"caddy-doku", "run", "--envfile", "/a,/b", "--envfile=/c", "--config", "x"}
	if got := EnvFiles(args); !slices.Equal(got, []string{"/a", "/b", "/c"}) {
		t.Errorf("files %v", got)
	}
	for _, test := range []struct {
		content, want string
		known         bool
	}{
		{"S=SK-1\n", "SK-1", true},
		{"# S=no\nexport S=SK-1 # a comment\n", "SK-1", true},
		{"S=\"SK-1\"\r\n", "SK-1", true},
		{"S='SK-1'", "SK-1", true},
		{"S=a\nS=b\n", "b", true},
		{"S=\"-----BEGIN\nKEY\"\n", "", false},
		{"OTHER=SK-1\n", "", false},
	} {
		if value, known := ValueIn(test.content, "S"); known != test.known || known && value != test.want {
			t.Errorf("%q: %q, known %v", test.content, value, known)
		}
	}
}
