package doktest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"unicode/utf16"
)

// Wrapping is a way in which people and programs write a key.
type Wrapping struct {
	Name   string
	Key    []byte
	Binary bool // it cannot be in an environment variable
}

// Wrappings returns the key in a PEM block in every way that the sidecar reads.
func Wrappings(t testing.TB, text []byte) []Wrapping {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("expected PEM")
	}
	plain := string(text)
	lines := strings.Split(strings.TrimSpace(plain), "\n")
	bare := strings.Join(lines[1:len(lines)-1], "\n")
	one := strings.ReplaceAll(bare, "\n", "")
	all := base64.StdEncoding.EncodeToString(text)
	encoded, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	quoted := string(encoded)
	replaced := func(newline string) string { return strings.Join(lines, newline) }
	texts := [][2]string{
		{"as openssl writes it", plain},
		{"without a line end", strings.TrimSpace(plain)},
		{"Windows line ends", replaced("\r\n") + "\r\n"},
		{"old Macintosh line ends", replaced("\r")},
		{"literal \\n", replaced(`\n`)},
		{"literal \\n and a newline", replaced(`\n`) + "\n"},
		{"literal \\r\\n", replaced(`\r\n`)},
		{"literal \\\\n", replaced(`\\n`)},
		{"spaces for line ends", replaced(" ")},
		{"no line ends", replaced("")},
		{"no line ends in the base64", lines[0] + "\n" + one + "\n" + lines[len(lines)-1]},
		{"empty lines between", replaced("\n\n")},
		{"indented", "    " + replaced("\n    ")},
		{"indented by tabs", "\t" + replaced("\n\t")},
		{"blanks at line ends", replaced("  \n")},
		{"a backslash at each line's end", replaced("\\\n")},
		{"a backslash at each line's end, in Windows", replaced("\\\r\n")},
		{"as a string of C", replaced("\\n\\\n")},
		{"in double quotes", `"` + plain + `"`},
		{"in single quotes", "'" + plain + "'"},
		{"in curly quotes", "“" + plain + "”"},
		{"in backquotes", "`" + plain + "`"},
		{"as a string of JSON", quoted},
		{"as a string of PHP's JSON", strings.ReplaceAll(quoted, "/", `\/`)},
		{"as a string of JSON with escapes", strings.NewReplacer("+", `\u002b`, "=", `\u003d`).Replace(quoted)},
		{"as a field of JSON", `{"type":"service_account","private_key":` + quoted + `}`},
		{"as a field of YAML", "key: |\n  " + replaced("\n  ")},
		{"as a line of an env file", `KEY="` + replaced(`\n`) + `"`},
		{"bare base64 as a line of an env file", "KEY=" + one},
		{"bare base64 as a line of a shell", `export DOKU_KEY="` + one + `"`},
		{"bare base64 as a field of YAML", "private_key: " + one},
		{"bare base64 as a field of code", `"` + one + `",`},
		{"bare base64 and a semicolon", one + ";"},
		{"in quotes with a comma", `"` + replaced(`\n`) + `",`},
		{"six hyphens", strings.ReplaceAll(plain, "-----", "------")},
		{"seven hyphens and Windows line ends", strings.ReplaceAll(replaced("\r\n"), "-----", "-------")},
		{"four hyphens", strings.ReplaceAll(plain, "-----", "----")},
		{"two hyphens, literal \\n", strings.ReplaceAll(replaced(`\n`), "-----", "--")},
		{"six hyphens before BEGIN only", "-" + plain},
		{"six hyphens behind BEGIN only", strings.Replace(plain, "KEY-----", "KEY------", 1)},
		{"six hyphens before END only", strings.Replace(plain, "-----END", "------END", 1)},
		{"four hyphens before END only", strings.Replace(plain, "-----END", "----END", 1)},
		{"blanks beside the words", strings.NewReplacer("-BEGIN", "- BEGIN", "-END", "- END", "KEY-", "KEY -").Replace(plain)},
		{"base64 of a PEM with six hyphens", base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(plain, "-----", "------")))},
		{"a byte order mark before it", "\ufeff" + plain},
		{"a byte order mark and quotes", "\ufeff\"" + plain + "\""},
		{"a zero-width space before it", "\u200b" + plain},
		{"a zero-width space in it", lines[0] + "\n\u200b" + strings.Join(lines[1:], "\n\u200b")},
		{"non-breaking spaces", "\u00a0" + replaced("\n\u00a0")},
		{"text around it", "Bag Attributes\n    friendlyName: doku\nKey Attributes: <No Attributes>\n" + plain + "\nend"},
		{"text before it that begins as DER does", "0: key\n" + plain},
		{"bare base64 in lines", bare},
		{"bare base64 on one line", one},
		{"bare base64 with Windows line ends", strings.ReplaceAll(bare, "\n", "\r\n")},
		{"bare base64 with literal \\n", strings.ReplaceAll(bare, "\n", `\n`)},
		{"bare base64 with blanks", strings.ReplaceAll(bare, "\n", " ")},
		{"bare base64 without padding", strings.TrimRight(one, "=")},
		{"bare base64 in quotes", `"` + one + `"`},
		{"bare base64 behind a zero-width space", "\u200b" + one},
		{"bare base64 behind a byte order mark", "\ufeff" + one + "\n"},
		{"base64 of the alphabet of URLs", base64.URLEncoding.EncodeToString(block.Bytes)},
		{"base64 of the alphabet of URLs without padding", base64.RawURLEncoding.EncodeToString(block.Bytes)},
		{"base64 of the whole PEM", all},
		{"base64 of the whole PEM without padding", strings.TrimRight(all, "=")},
		{"base64 of the whole PEM with Windows line ends", base64.StdEncoding.EncodeToString([]byte(replaced("\r\n")))},
		{"base64 of the whole PEM in lines", inLines(all, 76)},
		{"base64 of the whole PEM and a newline", all + "\n"},
		{"base64 of the bare base64", base64.StdEncoding.EncodeToString([]byte(one))},
		{"base64 of the base64 of the whole PEM", base64.StdEncoding.EncodeToString([]byte(all))},
	}
	wrappings := make([]Wrapping, 0, len(texts)+5)
	for _, of := range texts {
		wrappings = append(wrappings, Wrapping{Name: of[0], Key: []byte(of[1])})
	}
	return append(wrappings,
		Wrapping{"DER", block.Bytes, true},
		Wrapping{"DER and a newline", append(append([]byte(nil), block.Bytes...), '\n'), true},
		Wrapping{"UTF-16", inUTF16(binary.LittleEndian, "\ufeff"+replaced("\r\n")), true},
		Wrapping{"UTF-16, the higher byte first", inUTF16(binary.BigEndian, "\ufeff"+plain), true},
		Wrapping{"UTF-16, bare base64 in quotes", inUTF16(binary.LittleEndian, "\ufeff\""+one+"\"\r\n"), true},
		Wrapping{"UTF-16, the higher byte first, no byte order mark", inUTF16(binary.BigEndian, plain), true},
		Wrapping{"UTF-16 without a byte order mark", inUTF16(binary.LittleEndian, plain), true},
	)
}

func inLines(text string, width int) string {
	var lines strings.Builder
	for ; len(text) > width; text = text[width:] {
		lines.WriteString(text[:width] + "\n")
	}
	return lines.String() + text + "\n"
}

func inUTF16(order binary.AppendByteOrder, text string) []byte {
	var data []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		data = order.AppendUint16(data, unit)
	}
	return data
}
