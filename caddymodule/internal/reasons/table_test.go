package reasons

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func TestEveryReasonOfAnAnswerMadeHereHasAHint(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]Table{"outbound": Outbound, "inbound": Inbound} {
		for _, row := range table {
			if row.Case.Status != 0 && row.Hint == "" {
				t.Errorf("%s: %s has no hint", name, row.Name)
			}
			if row.Meaning == "" {
				t.Errorf("%s: %s has no meaning", name, row.Name)
			}
		}
		names := table.Names()
		slices.Sort(names)
		if len(slices.Compact(names)) != len(table) {
			t.Errorf("%s: a name stands there twice", name)
		}
	}
}

func TestEveryReasonOfTheVerifierIsInTheTable(t *testing.T) {
	t.Parallel()
	for _, reason := range verifier.Reasons() {
		if Inbound.Find(reason).Name == "" {
			t.Errorf("the table has no %s", reason)
		}
	}
}

func TestARejectionHasTheCaseOfItsReason(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	rejection := Inbound.Reject(HeaderMissing, "X-TIMESTAMP", cause)
	if rejection.Case != snap.InvalidMandatory.With("X-TIMESTAMP") || rejection.Reason != HeaderMissing || !errors.Is(rejection, cause) {
		t.Errorf("found %+v", rejection)
	}
	if found, ok := errors.AsType[*Rejection](fmt.Errorf("wrapped: %w", rejection)); !ok || found != rejection {
		t.Errorf("found %v, %v", found, ok)
	}
	if _, ok := errors.AsType[*Rejection](cause); ok {
		t.Error("an error without a rejection has one")
	}
}

func TestAStrangerIsNotToldWhichCheckOfASignatureFailed(t *testing.T) {
	t.Parallel()
	if got := Inbound.Outside("signature_format"); got != "signature" {
		t.Errorf("found %s", got)
	}
	if got := Inbound.Outside(HeaderMissing); got != HeaderMissing {
		t.Errorf("found %s", got)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestTheGuideHasTheTable: a change of the table prints the rows that the guide needs.
func TestTheGuideHasTheTable(t *testing.T) {
	t.Parallel()
	guide := read(t, "../../../docs/operations.md")
	for heading, table := range map[string]Table{"### Outcomes of calls to DOKU": Outbound, "### Outcomes of calls from DOKU": Inbound} {
		var want strings.Builder
		want.WriteString("| outcome | whose matter | meaning |\n|---|---|---|\n")
		for _, row := range table {
			owner := row.Owner
			if owner != "" {
				owner += " "
			}
			fmt.Fprintf(&want, "| `%s` | %s| %s |\n", row.Name, owner, row.Meaning)
		}
		_, section, found := strings.Cut(guide, "\n"+heading+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		if !found || !strings.Contains(section, want.String()) {
			t.Errorf("expected under %q in docs/operations.md:\n%s", heading, want.String())
		}
	}
}

// TestTheModuleDocsHaveTheAnswersMadeHere holds the table in the docs of doku_sign
// against this one.
func TestTheModuleDocsHaveTheAnswersMadeHere(t *testing.T) {
	t.Parallel()
	rows := regexp.MustCompile("(?m)^// \\| `([a-z_]+)` \\| ([0-9]{3}) \\|").FindAllStringSubmatch(read(t, "../../outbound/sign.go"), -1)
	found := make(map[string]string, len(rows))
	for _, row := range rows {
		found[row[1]] = row[2]
	}
	for _, row := range Outbound {
		if row.Case.Status == 0 {
			continue
		}
		if status := strconv.Itoa(row.Case.Status); found[row.Name] != status {
			t.Errorf("expected `%s` with status %s, found %q", row.Name, status, found[row.Name])
		}
		delete(found, row.Name)
	}
	for name := range found {
		t.Errorf("the docs have %s, which is not in the table", name)
	}
}
