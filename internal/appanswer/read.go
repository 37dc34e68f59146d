package appanswer

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"github.com/caddy-doku/caddy-doku/snap"
)

const codeName = "responseCode"

// reading is what a body says.
type reading struct {
	object bool              // it is one JSON object
	code   snap.ResponseCode // the first one, or ""
	codes  int               // members that could be a responseCode, in any spelling
	status int               // of the code, if it is clear
	clear  bool              // the codes are valid, and say the same
}

// trim removes white space and byte order marks around a body.
func trim(body []byte) []byte {
	return bytes.TrimFunc(body, func(r rune) bool { return r == '\ufeff' || unicode.IsSpace(r) })
}

// readBody reads a trimmed body.
func readBody(body []byte) reading {
	if !bytes.HasPrefix(body, []byte("{")) || !json.Valid(body) {
		return reading{}
	}
	if code, found := firstAndOnly(body); found {
		r := reading{object: true}
		r.add(code, true)
		return r
	}
	return readMembers(body)
}

// firstAndOnly returns the responseCode of an object that begins with it and cannot have
// another one. That is how most apps write their answers; it saves decoding them.
func firstAndOnly(body []byte) (code snap.ResponseCode, found bool) {
	rest, found := bytes.CutPrefix(body, []byte(`{"`+codeName+`":"`))
	if !found || bytes.IndexByte(rest, '\\') >= 0 {
		return "", false
	}
	text, rest, _ := bytes.Cut(rest, []byte{'"'})
	for i, b := range rest {
		if b|0x20 == 'r' && beginsWithName(rest[i:]) {
			return "", false
		}
	}
	return snap.ResponseCode(text), true
}

// beginsWithName reports whether a text begins with responseCode in any case, as
// [strings.EqualFold] compares: two letters of it have a form of two bytes in Unicode, ſ.
func beginsWithName(text []byte) bool {
	if len(text) < len(codeName) || text[1]|0x20 != 'e' {
		return false
	}
	for size := len(codeName); size <= min(len(text), len(codeName)+2); size++ {
		if bytes.EqualFold(text[:size], []byte(codeName)) {
			return true
		}
	}
	return false
}

// readMembers reads a valid JSON object.
func readMembers(body []byte) reading {
	r := reading{object: true}
	decoder := json.NewDecoder(bytes.NewReader(body))
	_, _ = decoder.Token() // the opening bracket
	for decoder.More() {
		name, _ := decoder.Token()
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return reading{}
		}
		if text, _ := name.(string); strings.EqualFold(text, codeName) {
			var code snap.ResponseCode
			_ = json.Unmarshal(value, &code)
			r.add(code, text == codeName)
		}
	}
	return r
}

// add adds a code. exact says that its name is spelled right.
func (r *reading) add(code snap.ResponseCode, exact bool) {
	status, _, ok := code.Case()
	ok = ok && exact && 100 <= status && status <= 599
	if r.codes++; r.codes == 1 {
		r.code, r.status, r.clear = code, status, ok
		return
	}
	r.clear = r.clear && ok && status == r.status
}
