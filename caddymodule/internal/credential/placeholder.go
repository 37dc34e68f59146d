package credential

import (
	"errors"
	"slices"
	"strings"
	"unicode"
)

// maskCharacters are what dashboards show in place of hidden characters.
const maskCharacters = "*•●∙·⋅◦○◌◍◎⬤⚫█▇▓▒░■□▪▫◼◾∗✱✲✳＊﹡٭⁎※"

// longestRun is how many of the same character can follow each other in a real secret: more
// of x, #, _, - or ? hide others.
const longestRun = 3

// placeholderWords are words that documents and templates have in place of a value, without
// what is not a letter. In English and Indonesian.
var placeholderWords = []string{
	"secret", "secretkey", "secretkeyhere", "secrethere", "apikey", "apisecret", "apikeyhere", "dokusecret", "dokusecretkey", "sharedkey", "sharedsecret",
	"mysecret", "mysecretkey", "thesecret", "yoursecret", "key", "password", "passwd", "todo", "tbd", "fixme", "none", "null", "nil", "undefined",
	"empty", "redacted", "hidden", "masked", "removed", "dummy", "example", "sample", "placeholder", "value", "string", "text", "foo", "foobar", "bar",
	"clientid", "dokuclientid", "yourclientid", "myclientid", "id", "default", "unset", "na", "brn", "mch", "sk",
	"rahasia", "kuncirahasia", "kunci", "isi", "ganti", "gantiini", "isidisini", "kosong", "contoh", "sandi",
}

// placeholderParts mark a placeholder wherever they are. They are too long to be in a
// random secret.
var placeholderParts = []string{
	"changeme", "changethis", "changeit", "replaceme", "replacethis", "replacewith", "yoursecret", "yourdoku", "yourkey", "yourclient", "yourapi", "putyour",
	"insertyour", "enteryour", "pasteyour", "secretkeyhere", "keyhere", "placeholder", "redacted", "fillme", "fillin", "gantidengan", "gantiini",
	"isidengan", "rahasiaanda", "kodeanda",
}

// checkPlaceholder returns an error if text is masked, or stands for a value. The prefixes
// are those of a real one.
func checkPlaceholder(text string, prefixes ...string) error {
	rest := text
	for _, prefix := range prefixes {
		if cut, found := strings.CutPrefix(strings.ToUpper(text), prefix); found {
			rest = text[len(text)-len(cut):]
		}
	}
	if strings.ContainsAny(text, maskCharacters) || hasRun(rest) {
		return errors.New("it is masked, as the dashboard shows it; show the whole value there, and copy that")
	}
	placeholder := errors.New("it is a placeholder; write the value from DOKU's dashboard (Integration, API Keys)")
	switch {
	case strings.ContainsAny(text, "<>{}[]…") || strings.Contains(text, "...") || strings.HasPrefix(text, "$") || strings.HasPrefix(text, "%"):
		return placeholder
	case !strings.ContainsFunc(rest, isAlphanumeric):
		return placeholder
	}
	if strings.ContainsFunc(rest, func(r rune) bool { return r > unicode.MaxASCII }) {
		return nil // another error says it better
	}
	word := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, rest)
	digits := strings.ContainsFunc(rest, unicode.IsDigit)
	if !digits && slices.Contains(placeholderWords, word) ||
		slices.ContainsFunc(placeholderParts, func(part string) bool { return strings.Contains(word, part) }) {
		return placeholder
	}
	return nil
}

// hasRun reports whether one character that may hide others fills a text, or follows
// itself too often.
func hasRun(text string) bool {
	parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("-_ .", r) })
	hidden := len(parts) > 0
	for _, part := range parts {
		if strings.Trim(part, "xX#?") != "" || part == "" {
			hidden = false
		}
	}
	if hidden {
		return true
	}
	run, last := 0, rune(0)
	for _, r := range text {
		if r != last {
			run, last = 0, r
		}
		if run++; run > longestRun && strings.ContainsRune("xX#?_-~+=", r) {
			return true
		}
	}
	return false
}

func isAlphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
