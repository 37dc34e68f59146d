// Package credential recognizes what cannot be right in place of an id, a secret or a
// key, and reads the files of secrets and keys. No error and no warning of it holds a
// part of a secret.
package credential

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/signer"
)

const shortestSecret = 12 // characters; DOKU's have more than 20

var (
	idForm     = regexp.MustCompile(`^(BRN|MCH)-[0-9]+-[0-9]+$`)
	secretForm = regexp.MustCompile(`^SK-[A-Za-z0-9_-]+$`)
	envLine    = regexp.MustCompile("^(?:(?:export|setx?|const|let|var)\\s+|\\$env:)?" +
		"[\"'`]?[A-Za-z_][A-Za-z0-9_.]*[\"'`]?\\s*(?::|=>?|:=)\\s*[^=\\s]")
	emptyLine   = regexp.MustCompile(`^(?:export\s+)?[A-Z][A-Z0-9]*_[A-Z0-9_]*=$`)
	secretIn    = regexp.MustCompile(`SK-[A-Za-z0-9_-]{12,}`)
	tokenForm   = regexp.MustCompile(`^eyJ[A-Za-z0-9_-]+\.`)
	secretInURL = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
)

// CheckSecret returns an error if text cannot be DOKU's secret key for a client id. Odd
// says what is unusual about one that may be right, or is "".
func CheckSecret(text, clientID string) (odd string, err error) {
	if kind := signer.DescribeKey([]byte(text)); kind != "" {
		other := "doku_public_key"
		if kind == "a private key" {
			other = "private_key"
		}
		return "", fmt.Errorf("expected DOKU's secret key, which begins with SK-, found %s; are secret_key and %s swapped?", kind, other)
	}
	wrapped := wrapping(text)
	switch {
	case wrapped == inJSON && !placeholderForm.MatchString(text):
		return "", errors.New("expected the secret key alone, found JSON; write only its value, without quotes and braces")
	case emptyLine.MatchString(text):
		return "", errors.New("expected the secret key, found NAME= with nothing behind it")
	case wrapped == inLine && !secretInURL.MatchString(text) && !windowsPath.MatchString(text):
		return "", errors.New("expected the secret key alone, found NAME=value; take the name and the = away")
	case wrapped == inQuotes || strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf && isQuote(r) }):
		return "", errors.New("it is in quotes, which DOKU's secret keys are not; take them away (an env file of Docker's keeps them)")
	case idForm.MatchString(text) || clientID != "" && text == clientID:
		return "", errors.New("expected DOKU's secret key, which begins with SK-, found a client id; are client_id and secret_key swapped?")
	case tokenForm.MatchString(text):
		return "", errors.New("expected DOKU's secret key, which begins with SK-, found a token (JWT)")
	case secretInURL.MatchString(text):
		return "", errors.New("expected DOKU's secret key, which begins with SK-, found a URL")
	case looksLikeFile(text):
		return "", errors.New("expected DOKU's secret key or the path of its file, found a path of another form; write the whole path, from /")
	}
	if found := secretIn.FindString(text); found != "" && checkPlaceholder(found, "SK-") == nil {
		if err := checkCharacters(text); err != nil { // a bracket beside a secret makes it no placeholder
			return "", err
		}
	}
	if err := checkPlaceholder(text, "SK-"); err != nil {
		return "", err
	}
	if err := checkCharacters(text); err != nil {
		return "", err
	}
	switch {
	case !strings.HasPrefix(text, "SK-"):
		return "it does not begin with SK-, as DOKU's secret keys do; is it another key of the dashboard?", nil
	case len(text) < shortestSecret:
		return "it is shorter than DOKU's secret keys are; is it cut off?", nil
	case !secretForm.MatchString(text):
		return "it has characters that DOKU's secret keys do not have; was it copied right?", nil
	}
	return "", nil
}

// checkCharacters returns an error if a text has a character that is never in a secret, but
// around one: in a list, a program, a sentence.
func checkCharacters(text string) error {
	i := strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || isQuote(r) || strings.ContainsRune(`,;|\()[]{}<>`, r) })
	if i < 0 {
		return nil
	}
	r, size := utf8.DecodeRuneInString(text[i:])
	todo := "copy it again"
	if i+size == len(text) {
		todo = "it is the last one; take it away"
	}
	return fmt.Errorf("expected one secret key of letters and digits, found the character %s at place %d; %s",
		characterName(r), utf8.RuneCountInString(text[:i])+1, todo)
}

// What a value may be wrapped in that is no part of it.
const (
	inJSON   = "JSON"
	inLine   = "a line of NAME=value"
	inQuotes = "in quotes"
)

var (
	placeholderForm = regexp.MustCompile(`^[\[{]+[^"':,]*[\]}]+$`) // such as [secret] and {{ .Values.secret }}
	windowsPath     = regexp.MustCompile(`^[A-Za-z]:[\\/]`)
)

// wrapping says what a value is wrapped in, or returns "".
func wrapping(text string) string {
	switch {
	case strings.HasPrefix(text, "{") || strings.HasPrefix(text, "["):
		return inJSON
	case envLine.MatchString(text):
		return inLine
	case InQuotes(text):
		return inQuotes
	}
	return ""
}

// CheckID returns an error if text cannot be a client id. It repeats only what cannot be a
// secret: an id is shown and sent. Odd says what is unusual, or is "".
func CheckID(text string) (odd string, err error) {
	const example = "BRN-0211-1696919651918"
	trimmed := strings.TrimFunc(text, isQuote)
	if strings.HasPrefix(strings.ToUpper(trimmed), "SK-") {
		return "", errors.New("it begins with SK-, as DOKU's secret keys do: are client_id and secret_key swapped?")
	}
	if kind := signer.DescribeKey([]byte(text)); kind != "" {
		return "", fmt.Errorf("expected a client id such as %s, found %s", example, kind)
	}
	switch {
	case strings.HasPrefix(text, "/") || strings.HasPrefix(text, "./") || looksLikeFile(text):
		return "", fmt.Errorf("expected a client id such as %s, found a path; write {file.<path>}", example)
	case strings.Contains(text, "|"):
		return "", fmt.Errorf("expected a client id such as %s, found one with |, which separates the parts of what is signed", example)
	case strings.ContainsAny(text, "\x00\ufffd"):
		return "", fmt.Errorf("expected a client id such as %s, found a text that is not in UTF-8; save its file as UTF-8", example)
	case wrapping(text) == inJSON && !placeholderForm.MatchString(text):
		return "", fmt.Errorf("expected a client id such as %s alone, found JSON; write only its value", example)
	case wrapping(text) == inLine:
		return "", fmt.Errorf("expected a client id such as %s alone, found NAME=value; take the name and the = away", example)
	case strings.HasSuffix(text, ",") || strings.HasSuffix(text, ";"):
		return "", fmt.Errorf("expected a client id such as %s, found one with %s at its end; take it away", example,
			characterName(rune(text[len(text)-1])))
	case len(text) > 64:
		return "", fmt.Errorf("expected a client id such as %s, found %d characters", example, len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || isQuote(r) || r == '$' }) || text == "" {
		return "", fmt.Errorf("expected a client id such as %s, without blanks and quotes, found %q; a variable is written as {env.NAME}",
			example, text)
	}
	if err := checkPlaceholder(text, "BRN-", "MCH-"); err != nil {
		return "", err
	}
	switch {
	case text == example:
		return "it is the example of the README; write your own, from DOKU's dashboard", nil
	case !idForm.MatchString(text):
		return "it does not look like " + example, nil
	}
	return "", nil
}

// Misplaced says what a text is that stands in place of a key, or returns "".
func Misplaced(text string) string {
	text = strings.TrimFunc(Trim(text), isQuote)
	switch {
	case strings.HasPrefix(text, "SK-"):
		return "a secret key; is it that of secret_key?"
	case idForm.MatchString(text):
		return "a client id; is it that of client_id?"
	}
	return ""
}

// Trim returns a text without white space and invisible characters around it.
func Trim(text string) string {
	return strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) })
}

// isQuote reports whether a character is a quotation mark, or used as one.
func isQuote(r rune) bool {
	return unicode.Is(unicode.Quotation_Mark, r) || strings.ContainsRune("`´ʹʺʻʼʽˋˊ′″‵‶❛❜❝❞〃", r)
}

// InQuotes reports whether a text begins or ends with a quotation mark.
func InQuotes(text string) bool {
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	return isQuote(first) || isQuote(last)
}

// characterName names a character that is no part of a secret.
func characterName(r rune) string {
	names := map[rune]string{
		' ': "blank", ',': "comma", ';': "semicolon", '"': "quotation mark", '\'': "apostrophe", '`': "backquote", '\\': "backslash",
	}
	switch {
	case names[r] != "":
		return fmt.Sprintf("%s (U+%04X)", names[r], r)
	case r == '\n' || r == '\r':
		return fmt.Sprintf("line end (U+%04X)", r)
	case unicode.Is(unicode.Cf, r):
		return fmt.Sprintf("U+%04X, which is invisible,", r)
	}
	return fmt.Sprintf("U+%04X", r)
}
