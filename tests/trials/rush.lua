-- Creates students of the institution "north", each with a different e-mail address.
dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "students.lua")
common.headers = "X-Institution: north\r\n"
