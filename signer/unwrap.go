package signer

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// The PEM labels that a reader prefers, best first.
var (
	privateLabels = []*regexp.Regexp{
		regexp.MustCompile(`^(RSA |ENCRYPTED )?PRIVATE KEY$`), regexp.MustCompile(`PRIVATE KEY$`),
	}
	publicLabels = []*regexp.Regexp{
		regexp.MustCompile(`^(RSA )?PUBLIC KEY$`), regexp.MustCompile(`PUBLIC KEY$`), regexp.MustCompile(`^(X509 |TRUSTED )?CERTIFICATE$`),
		regexp.MustCompile(`PRIVATE KEY$`),
	}
)

const deepest = 3 // levels of base64 around a key

// unwrap returns the DER in data, and the label of its PEM if it has one. Of several PEM
// blocks it takes the first with the best label of wanted, or else the first.
func unwrap(data []byte, wanted []*regexp.Regexp) (label string, der []byte, err error) {
	for range deepest {
		if len(data) > largestKey {
			return "", nil, fmt.Errorf("%w: more than %d bytes", ErrKeyFormat, largestKey)
		}
		if der, found := sequenceIn(data); found {
			return label, der, nil
		}
		if bytes.HasPrefix(data, magicJKS) {
			return label, data, nil
		}
		text, err := textOf(data)
		if err != nil {
			return "", nil, err
		}
		if label, der, err = unwrapText(tidy(text), wanted); err != nil {
			return "", nil, err
		}
		if size, ok := sizeOf(der); ok && size > len(der) {
			return "", nil, fmt.Errorf("%w: it is cut off: expected %d bytes, found %d; copy the whole key", ErrKeyFormat, size, len(der))
		}
		if !isText(der) {
			return label, der, nil
		}
		data = der // the base64 of a PEM or of base64
	}
	return "", nil, fmt.Errorf("%w: base64 within base64 within base64", ErrKeyFormat)
}

// sequenceIn returns the sequence of ASN.1 that data is, without line ends behind it. The
// sequence itself may end with such a byte.
func sequenceIn(data []byte) (der []byte, found bool) {
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(data, &sequence)
	return data[:len(data)-len(rest)], err == nil && sequence.Tag == asn1.TagSequence && len(bytes.TrimSpace(rest)) == 0
}

// sizeOf returns the length that a sequence of ASN.1 claims to have.
func sizeOf(der []byte) (int, bool) {
	if len(der) < 4 || der[0] != 0x30 {
		return 0, false
	}
	switch der[1] {
	case 0x81:
		return 3 + int(der[2]), true
	case 0x82:
		return 4 + int(binary.BigEndian.Uint16(der[2:])), true
	}
	return 0, false
}

// damage says what is wrong with der, if that can be known, as the end of an error.
func damage(der []byte) string {
	if size, ok := sizeOf(der); ok && size < len(der) {
		return fmt.Sprintf("; it has %d bytes too many; copy the key alone", len(der)-size)
	}
	return ""
}

// isText reports whether what was decoded is a text again.
func isText(data []byte) bool {
	return len(data) > 64 && !slices.ContainsFunc(data, func(b byte) bool {
		return b >= utf8.RuneSelf || b < ' ' && !bytes.ContainsRune([]byte("\r\n\t"), rune(b))
	})
}

// textOf decodes UTF-16, and refuses what is no text.
func textOf(data []byte) (string, error) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), len(data) > 1 && data[0] != 0 && data[1] == 0:
		order = binary.LittleEndian
	case bytes.HasPrefix(data, []byte("\xfe\xff")), len(data) > 1 && data[0] == 0 && data[1] != 0:
		order = binary.BigEndian
	}
	if order != nil {
		units := make([]uint16, 0, len(data)/2)
		for ; len(data) > 1; data = data[2:] {
			units = append(units, order.Uint16(data))
		}
		return string(utf16.Decode(units)), nil
	}
	if size, ok := sizeOf(data); ok && size > len(data) {
		return "", fmt.Errorf("%w: it is DER that is cut off: expected %d bytes, found %d; copy the whole file", ErrKeyFormat, size, len(data))
	}
	if !utf8.Valid(data) {
		return "", fmt.Errorf("%w: expected PEM, base64 or DER, found a binary file of another kind", ErrKeyFormat)
	}
	return string(data), nil
}

// spelled replaces what programs and people make of line ends and letters.
var spelled = strings.NewReplacer(
	"\\\r\n", "\n", "\\\n", "\n", "\\\r", "\n", // a backslash at a line's end
	`\\r`, "", `\\n`, "\n", `\r`, "", `\n`, "\n", `\t`, " ", `\/`, "/",
	`\u002b`, "+", `\u002B`, "+", `\u002f`, "/", `\u002F`, "/", `\u003d`, "=", `\u003D`, "=", `\u000a`, "\n", `\u000A`, "\n",
	"\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n", "\u0085", "\n",
)

// dashLines make the dashes of BEGIN and END lines five, and take the blanks beside them
// away. Hyphens behind what may be base64 of the alphabet of URLs stay as they are.
var dashLines = []struct {
	pattern *regexp.Regexp
	written string
}{
	{regexp.MustCompile(`(^|[^A-Za-z0-9_-])--+[ \t]*(BEGIN|END) `), "$1-----$2 "},
	{regexp.MustCompile(`(-BEGIN [A-Z0-9 ]*[A-Z0-9])[ \t]*--+`), "$1-----"},
}

// named64 matches the name before bare base64, as in a line of an env file.
var named64 = regexp.MustCompile(
	"^(?:(?:export|set)\\s+|\\$env:)?[A-Za-z_][A-Za-z0-9_.]{0,63}\\s*[=:]\\s*[\"'`]?(M[HI][A-Za-z0-9+/_-]{20}|LS0t)",
)

// tidy returns a text without what does not belong to a key: line ends of other kinds,
// invisible characters, quotes and a comma or semicolon around it, a name before it, more
// or fewer hyphens than five.
func tidy(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r): // such as byte order marks, zero-width spaces and soft hyphens
			return -1
		case unicode.Is(unicode.Zs, r):
			return ' '
		}
		return r
	}, text)
	text = strings.TrimFunc(spelled.Replace(text), func(r rune) bool {
		return unicode.IsSpace(r) || r == '`' || r == ',' || r == ';' || unicode.Is(unicode.Quotation_Mark, r)
	})
	if name := named64.FindStringSubmatchIndex(text); name != nil {
		text = text[name[2]:]
	}
	for _, line := range dashLines {
		text = line.pattern.ReplaceAllString(text, line.written)
	}
	return text
}

var (
	beginLine = regexp.MustCompile(`-----BEGIN ([A-Z0-9 ]+)-----`)
	pemHeader = regexp.MustCompile(`^\s*([A-Za-z][A-Za-z0-9-]*: .*\n\s*)+\n`)
)

// unwrapText returns what the base64 in a text encodes, and the label if it is PEM.
func unwrapText(text string, wanted []*regexp.Regexp) (label string, data []byte, err error) {
	if err := foreignText(text); err != nil {
		return "", nil, err
	}
	blocks := beginLine.FindAllStringSubmatchIndex(text, -1)
	if len(blocks) == 0 {
		if err := checkDashes(text); err != nil {
			return "", nil, err
		}
		if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
			return "", nil, fmt.Errorf("%w: expected PEM or base64, found JSON without PEM in it; write the key alone", ErrKeyFormat)
		}
		data, err = decode(text, 0, len(text))
		return "", data, err
	}
	labelOf := func(block []int) string { return text[block[2]:block[3]] }
	chosen := blocks[0]
	for _, pattern := range slices.Backward(wanted) {
		if i := slices.IndexFunc(blocks, func(block []int) bool { return pattern.MatchString(labelOf(block)) }); i >= 0 {
			chosen = blocks[i]
		}
	}
	label, start := labelOf(chosen), chosen[1]
	body, _, ended := strings.Cut(text[start:], "-----END ")
	switch {
	case strings.Contains(body, "Proc-Type: 4,ENCRYPTED"):
		return "", nil, fmt.Errorf("%w: encrypted in the old way of PKCS#1; %s", ErrKeyFormat, howToConvert)
	case strings.HasPrefix(body, "nMI"):
		return "", nil, fmt.Errorf("%w: its line ends have become the letter n; copy the key again", ErrKeyFormat)
	case !ended:
		if err := checkDashes(body); err != nil {
			return "", nil, err
		}
		return "", nil, fmt.Errorf("%w: PEM without its END line: it is cut off; copy the whole key", ErrKeyFormat)
	}
	end := start + len(body)
	start += len(pemHeader.FindString(body))
	data, err = decode(text, start, end)
	return label, data, err
}

var anyCase = regexp.MustCompile(`(?i)--[ \t]*(BEGIN|END) [A-Z0-9 ]+--`)

// checkDashes returns an error if the text has a BEGIN or END without its hyphens.
func checkDashes(text string) error {
	if line := anyCase.FindString(text); line != strings.ToUpper(line) {
		return fmt.Errorf("%w: expected BEGIN and END lines in capital letters (-----BEGIN PRIVATE KEY-----), found small ones", ErrKeyFormat)
	}
	for _, word := range []string{"BEGIN ", "END "} {
		before, _, found := strings.Cut(text, word)
		if !found {
			continue
		}
		dashes := before[len(strings.TrimRightFunc(before, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsSpace(r)
		})):]
		if dashes == "-----" {
			return fmt.Errorf("%w: expected a BEGIN and an END line such as -----BEGIN PRIVATE KEY-----, found only part of them", ErrKeyFormat)
		}
		runes := []rune(dashes)
		if len(runes) == 0 {
			return fmt.Errorf("%w: expected five hyphens (-----) before %s, found none", ErrKeyFormat, strings.TrimSpace(word))
		}
		return fmt.Errorf("%w: expected five hyphens (-----) before %s, found %q (%s); write them anew", ErrKeyFormat,
			strings.TrimSpace(word), string(runes[:min(len(runes), 8)]), named(runes[0]))
	}
	return nil
}

// named returns a character's number, with its name if it is one that editors make.
func named(r rune) string {
	names := map[rune]string{
		'-': "hyphen", '\u2010': "hyphen of another kind", '\u2011': "non-breaking hyphen", '\u2013': "en dash", '\u2014': "em dash",
		'\u2015': "bar", '\u2212': "minus sign", '\u2026': "ellipsis", '\ufffd': "a character that was lost",
	}
	if name := names[r]; name != "" {
		return fmt.Sprintf("U+%04X, %s", r, name)
	}
	return fmt.Sprintf("U+%04X", r)
}

// decode returns what the base64 in text[start:end] encodes. It takes the alphabet of
// URLs too, and needs no padding. An error names the place in the text.
func decode(text string, start, end int) ([]byte, error) {
	plain := make([]byte, 0, end-start)
	padded := false
	for i, r := range text[start:end] {
		switch {
		case unicode.IsSpace(r):
			continue
		case r == '=':
			padded = true
			continue
		case r == '-':
			r = '+'
		case r == '_':
			r = '/'
		}
		isBase64 := r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '+' || r == '/')
		if isBase64 && !padded {
			plain = append(plain, byte(r))
			continue
		}
		where := place(text, start+i)
		if isBase64 {
			return nil, fmt.Errorf("%w: expected the end of the base64 after =, found more %s; is it a line of an env file? take its name away",
				ErrKeyFormat, where)
		}
		return nil, fmt.Errorf("%w: expected PEM or base64, found the character %q (%s) %s", ErrKeyFormat, r, named(r), where)
	}
	data := make([]byte, base64.RawStdEncoding.DecodedLen(len(plain)))
	n, err := base64.RawStdEncoding.Decode(data, plain)
	if err != nil {
		return nil, fmt.Errorf("%w: the base64 is cut off: it has %d characters; copy the whole key", ErrKeyFormat, len(plain))
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: expected PEM or base64, found nothing", ErrKeyFormat)
	}
	return data[:n], nil
}

// place returns the line and column of a byte of text, for people.
func place(text string, at int) string {
	line := strings.Count(text[:at], "\n") + 1
	column := utf8.RuneCountInString(text[strings.LastIndexByte(text[:at], '\n')+1:at]) + 1
	return fmt.Sprintf("in line %d at character %d", line, column)
}
