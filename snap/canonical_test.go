package snap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestAppendCanonical(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in, want string
		hazards        []string // path and kind
	}{
		{"plain and compact stays", `{"a":"1","b":[1,2,{"c":null}]}`, `{"a":"1","b":[1,2,{"c":null}]}`, nil},
		{
			"white space goes",
			" {\n\t\"b\" : 1 ,\r\n \"a\" : [ 1 , 2 , { \"z\" : null , \"y\" : true } ] } \n",
			`{"b":1,"a":[1,2,{"z":null,"y":true}]}`, nil,
		},
		{"spaces within strings stay", `{"partnerServiceId" : "  088899"}`, `{"partnerServiceId":"  088899"}`, nil},
		{"escaped slashes", `{"url":"https:\/\/m.id\/a"}`, `{"url":"https://m.id/a"}`, nil},
		{"HTML escapes", `{"n":"\u003cb\u003e\u0026\u003d\u0027"}`, `{"n":"<b>&='"}`, nil},
		{"escaped letters, both cases", `{"n":"Caf\u00e9 Caf\u00E9"}`, `{"n":"Café Café"}`, nil},
		{"a surrogate pair", `{"n":"\ud83c\udf89"}`, `{"n":"🎉"}`, nil},
		{"quote and backslash get their short escapes", `"\u0022\u005c\u005C"`, `"\"\\\\"`, nil},
		{"control characters get their short escapes", `"\u0008\u000c\u000a\u000d\u0009"`, `"\b\f\n\r\t"`, nil},
		{"short escapes stay", `"a\"b\\c\b\f\n\r\t"`, `"a\"b\\c\b\f\n\r\t"`, nil},
		{"DEL is raw", `"\u007f"`, "\"\x7f\"", nil},
		{"empty containers", `{"a":{ },"b":[ ]}`, `{"a":{},"b":[]}`, nil},
		{"a scalar", ` -12 `, `-12`, nil},
		{"other control characters", `{"a":"\u001F"}`, `{"a":"\u001f"}`, []string{"$.a: control character"}},
		{"floats", `{"a":10000.00,"b":[1,1e5,-0]}`, `{"a":10000.00,"b":[1,1e5,-0]}`, []string{
			"$.a: number that is not a plain integer", "$.b[1]: number that is not a plain integer", "$.b[2]: number that is not a plain integer",
		}},
		{
			"integers beyond 2^53-1",
			`[9007199254740991,9007199254740992,-12345678901234567890]`,
			`[9007199254740991,9007199254740992,-12345678901234567890]`,
			[]string{
				"$[1]: integer beyond 2^53-1", "$[2]: integer beyond 2^53-1",
			},
		},
		{
			"line separators stay as they stand",
			"[\"\u2028\",\"\\u2029\"]", "[\"\u2028\",\"\\u2029\"]",
			[]string{"$[0]: U+2028 or U+2029", "$[1]: U+2028 or U+2029"},
		},
		{
			"lone surrogates stay",
			`["\ud800","\udc00x","\ud800\u0041"]`, `["\ud800","\udc00x","\ud800A"]`,
			[]string{"$[0]: lone surrogate", "$[1]: lone surrogate", "$[2]: lone surrogate"},
		},
		{"invalid UTF-8 stays", "[\"\xff\"]", "[\"\xff\"]", []string{"$[0]: invalid UTF-8"}},
		{"duplicate keys", `{"x":{"a":1,"b":2,"a":3}}`, `{"x":{"a":1,"b":2,"a":3}}`, []string{"$.x.a: duplicate key"}},
		{"duplicate keys by meaning", `{"a":1,"\u0061":2}`, `{"a":1,"a":2}`, []string{"$.a: duplicate key"}},
		{"duplicate keys with a kept escape", "{\"\\u2028\":1,\"\u2028\":2}", "{\"\\u2028\":1,\"\u2028\":2}", []string{
			`$["\u2028"]: U+2028 or U+2029`, `$["\u2028"]: duplicate key`, `$["\u2028"]: U+2028 or U+2029`,
		}},
		{"the same key in different objects is no duplicate", `[{"a":1},{"a":{"a":2}}]`, `[{"a":1},{"a":{"a":2}}]`, nil},
		{"keys like array indexes", `{"0":1,"12":2,"012":3,"4294967295":4}`, `{"0":1,"12":2,"012":3,"4294967295":4}`, []string{
			`$["0"]: key that looks like an array index`, `$["12"]: key that looks like an array index`,
		}},
		{"a lone key like an array index", `{"0":{"a":[{"1":"x"}]}}`, `{"0":{"a":[{"1":"x"}]}}`, nil},
		{"one that is escaped", `{"\u0030":1}`, `{"0":1}`, nil},
		{"one behind another key", `{"a":1,"0":2}`, `{"a":1,"0":2}`, []string{`$["0"]: key that looks like an array index`}},
		{"one before another key", `{"0":{"1":{},"2":[]},"é":2}`, `{"0":{"1":{},"2":[]},"é":2}`, []string{
			`$["0"]: key that looks like an array index`, `$["0"]["1"]: key that looks like an array index`,
			`$["0"]["2"]: key that looks like an array index`,
		}},
		{"escaped ones", `{"\u0030":1,"\u0031":2}`, `{"0":1,"1":2}`, []string{
			`$["0"]: key that looks like an array index`, `$["1"]: key that looks like an array index`,
		}},
		{"control characters that all write in the same way", `["\u0000","\u0001","\u0019"]`, `["\u0000","\u0001","\u0019"]`, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, hazards, err := AppendCanonical([]byte("before"), []byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != "before"+test.want {
				t.Errorf("found    %s\nexpected before%s", got, test.want)
			}
			var found []string
			for _, h := range hazards {
				found = append(found, h.Path+": "+h.Kind.String())
			}
			if !slices.Equal(found, test.hazards) {
				t.Errorf("hazards %q, expected %q", found, test.hazards)
			}
			if len(found) == 0 {
				var compact bytes.Buffer
				if err := json.Compact(&compact, got[6:]); err != nil || compact.String() != test.want {
					t.Errorf("json.Compact changes it to %s", compact.String())
				}
			}
		})
	}
}

func TestAppendCanonicalRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		offset   int
	}{
		{"nothing", "", 0},
		{"only white space", "  ", 2},
		{"a byte order mark", "\ufeff{}", 0},
		{"a missing value", `{"a":}`, 5},
		{"a missing colon", `{"a" 1}`, 5},
		{"a comma at the end of an object", `{"a":1,}`, 7},
		{"a comma at the end of an array", `[1,]`, 3},
		{"a key without quotes", `{a:1}`, 1},
		{"cut off", `{"a":"b`, 7},
		{"something after the end", `{} {}`, 3},
		{"a raw newline in a string", "\"a\nb\"", 2},
		{"an unknown escape", `"\x"`, 2},
		{"a short \\u escape", `"\u12"`, 5},
		{"a leading zero", `[01]`, 2},
		{"a bare minus", `-`, 1},
		{"no digit after the point", `1.`, 2},
		{"no digit in the exponent", `1e+`, 3},
		{"a leading plus", `+1`, 0},
		{"a misspelt literal", `nul`, 0},
		{"mismatched brackets", `[1}`, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if json.Valid([]byte(test.in)) {
				t.Fatal("json.Valid takes it")
			}
			out, _, err := AppendCanonical([]byte("x"), []byte(test.in))
			var syntax *syntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("error %v", err)
			}
			if syntax.offset != test.offset {
				t.Errorf("%v, expected offset %d", err, test.offset)
			}
			if string(out) != "x" {
				t.Errorf("dst became %q", out)
			}
		})
	}
}

func TestNestingHasTheLimitOfEncodingJSON(t *testing.T) {
	t.Parallel()
	for depth, ok := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
		body := []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth))
		if json.Valid(body) != ok {
			t.Fatalf("encoding/json has another limit than %d", maxDepth)
		}
		if _, _, err := AppendCanonical(nil, body); (err == nil) != ok {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestManyKeysInOneObject(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteByte('{')
	const n = 100_000
	for i := range n {
		fmt.Fprintf(&b, `"key%d":{"a":1,"b":2},`, i)
	}
	b.WriteString(`"key77777":0}`)
	_, hazards, err := AppendCanonical(nil, []byte(b.String()))
	if err != nil || len(hazards) != 1 || hazards[0].Kind != DuplicateKey {
		t.Errorf("hazards %v, error %v", hazards, err)
	}
}

// checkCanonical holds src against the promises of AppendCanonical and
// AppendMinified.
func checkCanonical(t *testing.T, src []byte) {
	t.Helper()
	out, hazards, err := AppendCanonical(nil, src)
	minified, minifyErr := AppendMinified(nil, src)
	if !json.Valid(src) {
		var syntax *syntaxError
		if !errors.As(err, &syntax) || syntax.offset < 0 || syntax.offset > len(src) {
			t.Fatalf("not JSON, but error %v", err)
		}
		if minifyErr == nil {
			t.Fatal("not JSON, but minified")
		}
		return
	}
	if err != nil || minifyErr != nil {
		t.Fatalf("JSON, but errors %v and %v", err, minifyErr)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, src); err != nil || !bytes.Equal(compact.Bytes(), minified) {
		t.Fatalf("minified %q, json.Compact gives %q", minified, compact.Bytes())
	}
	if len(out) > len(src) {
		t.Fatalf("longer than the input: %q", out)
	}
	if want, got := tokens(t, src), tokens(t, out); !reflect.DeepEqual(want, got) {
		t.Fatalf("another meaning: %q became %q", src, out)
	}
	again, hazardsAgain, err := AppendCanonical(nil, out)
	if err != nil || !bytes.Equal(again, out) || len(hazardsAgain) != len(hazards) {
		t.Fatalf("not a fixed point: %q became %q (%v, %v, %v)", out, again, hazards, hazardsAgain, err)
	}
}

// tokens returns the meaning of a JSON text with the order of keys kept.
func tokens(t *testing.T, text []byte) []any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var all []any
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, token)
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		`{"a":"1","b":[1,2.50,{"c":null,"c":true}]}`, "{\"n\":\"Caf\\u00e9 \\ud83c\\udf89 \u2028\"}", `[01]`, `"\ud800"`, "\"\xff\"", ` `,
		`{"a":1,"\u0061":2,"\u2028":3}`, "\ufeff{}", `[-0,1e5,9007199254740993]`, `{"0":1,"1":[[],{}]}`, `"\/\u0022\u005C\u001F"`,
	} {
		f.Add([]byte(seed))
	}
	for _, body := range benchBodies(1 << 10) {
		f.Add(body.body)
	}
	f.Fuzz(checkCanonical)
}
