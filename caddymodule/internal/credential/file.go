package credential

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf16"
)

const (
	maxFile = 64 << 10 // bytes
	maxPath = 512
)

// Placeholder returns the path in a value that is nothing but the placeholder
// {file.<path>}. Such a file is read here, so that it can be watched.
func Placeholder(value string) (string, bool) {
	path, begins := strings.CutPrefix(value, "{file.")
	path, ends := strings.CutSuffix(path, "}")
	return path, begins && ends && !strings.ContainsAny(path, "{}")
}

// Path returns the path that stands in place of a secret, which begins with / or a dot.
func Path(text string) (string, bool) {
	path := Trim(text)
	found := strings.HasPrefix(path, "/") || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../")
	return path, found && len(path) <= maxPath && !strings.ContainsAny(path, "\r\n")
}

// RelativePath returns the path that stands in place of a secret key although it begins
// like a key: a file of that name is there, or it has a slash, which no key of DOKU's has.
func RelativePath(text string) (string, bool) {
	if len(text) > maxPath || strings.HasPrefix(text, "SK-") || strings.ContainsAny(text, "\r\n|") || IsKey(text) {
		return "", false
	}
	if _, found := Path(text); found {
		return "", false
	}
	info, err := os.Stat(text)
	return text, err == nil && info.Mode().IsRegular() || strings.Contains(text, "/")
}

var keyBeginning = regexp.MustCompile(
	`BEGIN |^(?:(?:export|set)\s+|\$env:)?(?:[A-Za-z_][A-Za-z0-9_.]{0,63}\s*[=:])?\W*(MI[A-Za-z0-9+/_-]{60}|LS0t[A-Za-z0-9+/]{60}|ssh-|ecdsa-sha2-|AAAA[BC]3Nz|AAAAE2Vj|PuTTY-|<|\{)|\\n`)

var onlyBase64 = regexp.MustCompile(`^[A-Za-z0-9+/=_-]{100,}$`)

// IsKey reports whether text is a key itself, in whatever form, rather than the path of
// its file.
func IsKey(text string) bool {
	trimmed := Trim(text)
	if isPath(trimmed) {
		return false
	}
	return strings.ContainsAny(trimmed, "\r\n") || len(trimmed) > maxPath || keyBeginning.MatchString(trimmed) ||
		onlyBase64.MatchString(trimmed)
}

var fileForm = regexp.MustCompile(`^(~/|file:|[A-Za-z]:\\)|^[^|]*\.(pem|key|crt|cer|der|txt|pub|p8|pk8|p12|pfx|env|secret)$`)

// looksLikeFile reports whether text is a path of a form that is not read.
func looksLikeFile(text string) bool { return fileForm.MatchString(text) }

// isPath reports whether text is a path for certain, so that an error may repeat it: not
// part of a key or secret.
func isPath(text string) bool {
	path, found := Path(text)
	if !found && !looksLikeFile(text) || len(text) > maxPath || strings.ContainsFunc(text, unicode.IsControl) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) >= 16 && !strings.Contains(part, ".") && strings.ContainsFunc(part, unicode.IsUpper) &&
			strings.ContainsFunc(part, unicode.IsLower) && strings.ContainsFunc(part, unicode.IsDigit) {
			return false
		}
	}
	return true
}

// Where says which file a setting names, for an error: the path if it cannot be a secret,
// and how the setting is written. It returns "" if the text is no path.
func Where(value, path string) string {
	_, placeholder := Placeholder(value)
	switch {
	case placeholder || value == path && isPath(path):
		return fmt.Sprintf("the file %q", path)
	case isPath(path):
		return fmt.Sprintf("the file %q, which %s names", path, value)
	}
	return ""
}

// Read returns the content of a regular file of at most 64 KiB. Errors do not have the path.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path) // of what a link leads to
	if err != nil {
		return nil, withoutPath(err)
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	// It may be something else by now: opening it must not wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	if info, err = f.Stat(); err != nil {
		return nil, withoutPath(err)
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("expected at most %d bytes, found more", maxFile)
	}
	return content, nil
}

// regular returns an error if info is not that of a regular file: reading
// something else, such as a pipe, may never end.
func regular(info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return errors.New("it is a directory; name the file in it")
	}
	return fmt.Errorf("expected a regular file, found one of mode %s; write the key or secret into a file of its own", info.Mode())
}

// decoded returns a text in UTF-8 that may be in UTF-16, with a byte order mark or without.
// A mark stays in the text.
func decoded(content []byte) (string, error) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(content, []byte("\xff\xfe\x00\x00")), bytes.HasPrefix(content, []byte("\x00\x00\xfe\xff")):
		return "", errors.New("it is in UTF-32; save it as UTF-8")
	case bytes.HasPrefix(content, []byte("\xff\xfe")), len(content) > 1 && content[0] != 0 && content[1] == 0:
		order = binary.LittleEndian
	case bytes.HasPrefix(content, []byte("\xfe\xff")), len(content) > 1 && content[0] == 0 && content[1] != 0:
		order = binary.BigEndian
	default:
		return string(content), nil
	}
	if len(content)%2 != 0 {
		return "", errors.New("it is in UTF-16, and cut off; save it as UTF-8")
	}
	units := make([]uint16, len(content)/2)
	for i := range units {
		units[i] = order.Uint16(content[2*i:])
	}
	return string(utf16.Decode(units)), nil
}

// withoutPath returns a file's error without the path, with advice.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; let the user that runs the sidecar read it", err)
	}
	return err
}
