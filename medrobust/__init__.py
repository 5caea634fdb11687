"""MedRobust: how easily is a medical-image model fooled, would anybody notice, and what helps?"""
